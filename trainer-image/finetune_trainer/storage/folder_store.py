"""A folder of this machine as a store of objects: the output of a run without a cluster.

Implements `object_store` beside `s3`, so that publishing, checkpoints and resume follow one protocol
in both. A key is the path of a file. Each file is written under a temporary name, flushed to the disk
and renamed, so that a crash leaves the old content or the new one. An ETag is the time of the last
change and the size; it differs from every MD5, so that `s3_transfer` always reads back what it wrote.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune_trainer.errors import AccessDenied, EnvironmentUnfit, OutputUnwritable, TrainerError
from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.disk_errors import FULL
from finetune_trainer.storage.s3_errors import ObjectChanged
from finetune_trainer.storage.s3_location import FILE_SCHEME, S3Location
from finetune_trainer.storage.s3_objects import StoredObject

TEMPORARY = ".unfinished-"
"""Begins the name of a file that is being written; `list` leaves such files out."""
FILE_MODE = 0o644
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FolderStore:
    """A file system, seen as a store of whole objects."""

    subject: str
    backoff: Backoff = field(default_factory=Backoff)

    def with_backoff(self, backoff: Backoff) -> "FolderStore":
        """Return the same store with other waits."""
        return replace(self, backoff=backoff)

    def list(self, prefix: S3Location) -> Iterator[StoredObject]:
        """Yield every file whose path begins with the prefix, in the order of their paths."""
        with _translated(prefix, self.subject):
            yield from (_describe(path) for path in _find_files(prefix))

    def head(self, location: S3Location) -> StoredObject | None:
        """Return the description of one file, or None if there is none."""
        path = _path(location)
        with _translated(location, self.subject), suppress(FileNotFoundError, NotADirectoryError):
            return _describe(path) if path.is_file() else None
        return None

    def read(self, location: S3Location) -> tuple[bytes, str] | None:
        """Return the bytes and the ETag of a small file, or None if there is none."""
        path = _path(location)
        with _translated(location, self.subject), suppress(FileNotFoundError, NotADirectoryError):
            return path.read_bytes(), _describe(path).etag
        return None

    def stream(self, location: S3Location, *, offset: int, etag: str) -> Iterator[bytes]:
        """Yield the bytes from `offset` on of the version that `etag` names.

        Raises:
            ObjectChanged: The file was replaced or removed.
        """
        there = self.head(location)
        if there is None or there.etag != etag:
            raise ObjectChanged(f"{location.uri} changed while it was read; it is read again.")
        with _translated(location, self.subject), _path(location).open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def put(
        self,
        location: S3Location,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Write one file whole and return its ETag; a file has neither content type nor metadata."""
        del content_type, metadata
        with _translated(location, self.subject), _replacing(_path(location)) as temporary:
            temporary.write_bytes(data)
        return _describe(_path(location)).etag

    def put_if(
        self,
        location: S3Location,
        data: bytes,
        *,
        etag: str | None,
        content_type: str = "application/json",
    ) -> str | None:
        """Write only over the version that `etag` names; return the new ETag, or None on a conflict.

        Two writers may both see the old version in the same moment. `kubectl finetune run` locks the
        folder of a resource, so that one process writes to it.
        """
        there = self.head(location)
        if (there.etag if there else None) != etag:
            return None
        return self.put(location, data, content_type=content_type)

    def delete(self, locations: Sequence[S3Location]) -> None:
        """Delete files, and each folder that this leaves empty."""
        for location in locations:
            path = _path(location)
            with _translated(location, self.subject):
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()

    def check_readable(self, prefix: S3Location) -> None:
        """Raise if the folder cannot be listed; a folder that does not exist yet is empty."""
        next(self.list(prefix), None)

    def check_writable(self, prefix: S3Location) -> None:
        """Write a file below the prefix and remove it.

        Raises:
            AccessDenied: The user of this process may not write there.
            OutputUnwritable: A file has the name of a folder that is needed.
        """
        probe = prefix.join(".write-check")
        self.put(probe, b"")
        self.delete([probe])

    def begin_upload(self, location: S3Location, *, metadata: Mapping[str, str]) -> str:
        """Begin an upload in parts and return its id, the folder that collects them."""
        del metadata
        path = _path(location)
        with _translated(location, self.subject):
            path.parent.mkdir(parents=True, exist_ok=True)
            return tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent)

    def put_part(self, location: S3Location, upload: str, *, number: int, data: bytes) -> str:
        """Write part `number`, counted from 1, and return its MD5 as its ETag."""
        with _translated(location, self.subject):
            _part(upload, number).write_bytes(data)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def finish_upload(self, location: S3Location, upload: str, *, etags: Sequence[str]) -> None:
        """Join the parts to one file."""
        parts = [_part(upload, number) for number in range(1, len(etags) + 1)]
        with (
            _translated(location, self.subject),
            _replacing(_path(location)) as temporary,
            temporary.open("wb") as whole,
        ):
            for part in parts:
                whole.write(part.read_bytes())
        self.abort_upload(location, upload)

    def abort_upload(self, location: S3Location, upload: str) -> None:
        """Remove the parts of an upload."""
        with _translated(location, self.subject), suppress(FileNotFoundError):
            for part in Path(upload).iterdir():
                part.unlink()
            Path(upload).rmdir()


def _path(location: S3Location) -> Path:
    return Path("/", location.key)


def _part(upload: str, number: int) -> Path:
    return Path(upload, f"{number:05}")


def _find_files(prefix: S3Location) -> list[Path]:
    """Return the files below the deepest folder that the prefix names, in the order of their paths."""
    start = _path(prefix) if prefix.key.endswith("/") else _path(prefix).parent
    found = (
        Path(folder, name)
        for folder, folders, names in os.walk(start)
        if not _leave_out_unfinished(folders)
        for name in names
        if not name.startswith(TEMPORARY)
    )
    return sorted(path for path in found if str(path).startswith(f"/{prefix.key}"))


def _leave_out_unfinished(folders: list[str]) -> bool:
    """Remove the folders of unfinished uploads from a walk; returns False, since `walk` goes on."""
    folders[:] = [name for name in folders if not name.startswith(TEMPORARY)]
    return False


def _describe(path: Path) -> StoredObject:
    found = path.stat()
    location = S3Location("", str(path).lstrip("/"))
    return StoredObject(
        location=location, size=found.st_size, etag=f"{found.st_mtime_ns:x}-{found.st_size:x}"
    )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file; on success it takes the place of `path`, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    temporary = Path(name)
    try:
        yield temporary
        os.fsync(handle)
        temporary.chmod(FILE_MODE)
        temporary.replace(path)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


@contextmanager
def _translated(location: S3Location, subject: str) -> Iterator[None]:
    """Raise our errors for what the file system refuses."""
    try:
        yield
    except FileNotFoundError as fault:
        # Removed by another process at this moment.
        raise OutputUnwritable(
            f"{location.uri} of {subject} disappeared while it was used; see"
            " that no other program works in the folder, and try again.",
            reason="FolderChanged",
        ) from fault
    except OSError as fault:
        raise _diagnose(fault, location, subject) from fault


def _diagnose(fault: OSError, location: S3Location, subject: str) -> TrainerError:
    folder = f"{FILE_SCHEME}{_path(location).parent}"
    if isinstance(fault, PermissionError):
        return AccessDenied(
            f"{folder} of {subject} cannot be used: user {os.getuid()} has no permission; change the"
            " permissions of the folder or choose another one.",
            reason="FolderNotAllowed",
        )
    if fault.errno in FULL:
        return EnvironmentUnfit(
            f"The disk at {folder} of {subject} is full; free some space or choose another folder.",
            reason="DiskFull",
        )
    return OutputUnwritable(
        f"{folder} of {subject} cannot be written ({os.strerror(fault.errno or 0)}): expected a folder;"
        " choose another one.",
        reason="FolderUnwritable",
    )
