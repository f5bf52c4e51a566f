"""Whole files between a folder and S3: resumed when a download breaks, verified when done.

Above `s3`, below fetch and publish. A file counts as moved only when its bytes were checked: against
the store's own checksum where it gives one, else by reading them back.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from finetune_trainer.errors import DataInvalid, NotFound, OutputUnwritable, ServiceUnavailable
from finetune_trainer.storage.object_store import ObjectStore
from finetune_trainer.storage.s3 import CHUNK_BYTES
from finetune_trainer.storage.s3_errors import ObjectChanged
from finetune_trainer.storage.s3_location import S3Location
from finetune_trainer.storage.s3_objects import StoredObject

logger = logging.getLogger(__name__)

PART_BYTES = 32 << 20
"""Size of a part of an upload: ten thousand of them hold 312 GiB, the largest file we can publish."""
SINGLE_PUT_BYTES = 64 << 20
"""Largest file that goes in one request. Most adapters do."""
PARALLEL_PARTS = 4
"""Parts under way at once; more fill a network no better and hold 32 MiB each."""


HASHED_AT_ONCE = 32 << 20
"""Bytes. Beside a thread that imports, each piece waits up to 5 ms for Python's lock, twice: in pieces of
256 KiB 16 GB took 37 s on a machine where they take 5 alone (measured)."""


@dataclass(frozen=True)
class Digests:
    """What a file's bytes hash to, in hex, and how many there are."""

    size: int
    sha256: str
    md5: str


@dataclass(frozen=True)
class VerifiedFile:
    """One object on the disk, verified."""

    path: Path
    source: str
    """URI of the object."""
    size: int
    sha256: str
    etag: str = ""
    """What the store called these bytes when they were verified; of an upload alone."""


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex: where no store wants an MD5, which takes twice as long."""
    # No larger than the file: thousands of small ones would mostly clear memory.
    room = min(HASHED_AT_ONCE, max(1, path.stat().st_size))
    digest, buffer = hashlib.sha256(), memoryview(bytearray(room))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def measure_file(path: Path) -> Digests:
    """Return the digests of a file, read once."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    for chunk in read_chunks(path, CHUNK_BYTES):
        sha256.update(chunk)
        md5.update(chunk)
        size += len(chunk)
    return Digests(size=size, sha256=sha256.hexdigest(), md5=md5.hexdigest())


def read_chunks(path: Path, chunk_bytes: int) -> Iterator[bytes]:
    """Yield a file's bytes in pieces."""
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            yield chunk


# --- From S3 ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Note:
    """What stands beside a file on the disk, so that a later attempt knows what it is."""

    etag: str
    size: int
    sha256: str = ""
    """Empty while the download is under way."""


def download(store: ObjectStore, location: S3Location, target: Path) -> VerifiedFile:
    """Fetch one object to `target`, from where an earlier attempt broke off, and verify it.

    Raises:
        NotFound: There is no such object.
        DataInvalid: The bytes are not those that the store vouches for, twice in a row.
        ServiceUnavailable: The store did not answer within the waits.
    """
    first = _download_once(store, location, target)
    described = _describe(store, location)
    if is_verified(described, first):
        return _keep(target, described, first)
    target.unlink()
    second = _download_once(store, location, target)
    described = _describe(store, location)
    # An ETag that is no MD5 of the content is legal. Two equal copies then vouch for each other;
    # a SHA-256 that differs is never explained away.
    if is_verified(described, second) or (described.sha256 is None and first == second):
        return _keep(target, described, second)
    raise DataInvalid(
        f"{location.uri} does not have the checksum that the store gives for it (found"
        f" {second.sha256[:12]}…); upload the file again and apply again.",
        reason="ChecksumMismatch",
    )


def is_verified(described: StoredObject, digests: Digests) -> bool:
    """Tell whether the digests are those that the store gives.

    Where it gives none that can be compared (ETags of uploads in parts, or of objects encrypted
    with their own key) the size decides.
    """
    if described.size != digests.size:
        return False
    if described.sha256 is not None:
        return described.sha256 == digests.sha256
    if described.is_encrypted or not _is_md5(described.etag):
        return True
    return described.etag == digests.md5


def _download_once(store: ObjectStore, location: S3Location, target: Path) -> Digests:
    """Bring the object's current version to the disk and return its digests."""
    target.parent.mkdir(parents=True, exist_ok=True)
    backoff = store.backoff.begin()
    while True:
        described = _describe(store, location)
        if _is_reusable(target, described):
            return measure_file(target)
        try:
            _stream_to(store, described, target)
        except ServiceUnavailable:
            wait = next(backoff, None)
            if wait is None:
                raise
            store.backoff.sleep(wait)


def _describe(store: ObjectStore, location: S3Location) -> StoredObject:
    described = store.head(location)
    if described is None:
        raise NotFound(
            f"{location.uri} of {store.subject} does not exist; correct the URI or upload it, and"
            " apply again.",
            reason="ObjectNotFound",
        )
    return described


def _stream_to(store: ObjectStore, described: StoredObject, target: Path) -> None:
    """Append what is missing to the part file, then give it its name."""
    part, note = _part_of(target), _Note(etag=described.etag, size=described.size)
    if _load_note(part) != note:
        part.unlink(missing_ok=True)
        _save_note(part, note)
    offset = part.stat().st_size if part.exists() else 0
    with part.open("ab") as file:
        if offset < described.size:
            for chunk in store.stream(described.location, offset=offset, etag=described.etag):
                file.write(chunk)
    if part.stat().st_size != described.size:
        # More or less than announced: what is there is worth nothing.
        part.unlink()
        raise ServiceUnavailable(
            f"{described.location.uri} ended early; it is fetched again.", reason="StoreUnavailable"
        )
    _note_of(part).unlink()
    part.replace(target)
    _save_note(target, note)


def _is_reusable(target: Path, described: StoredObject) -> bool:
    note = _load_note(target)
    return (
        note is not None
        and target.exists()
        and (note.etag, note.size) == (described.etag, described.size)
        and target.stat().st_size == described.size
        and note.sha256 in ("", hash_file(target))
    )


def _keep(target: Path, described: StoredObject, digests: Digests) -> VerifiedFile:
    _save_note(target, _Note(etag=described.etag, size=digests.size, sha256=digests.sha256))
    return VerifiedFile(
        path=target, source=described.location.uri, size=digests.size, sha256=digests.sha256
    )


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _note_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.note")


def _save_note(path: Path, note: _Note) -> None:
    _note_of(path).write_text(json.dumps(asdict(note)))


def _load_note(path: Path) -> _Note | None:
    try:
        return _Note(**json.loads(_note_of(path).read_text()))
    except (OSError, ValueError, TypeError):
        # Absent, or cut by a crash: as good as absent.
        return None


def _is_md5(etag: str) -> bool:
    return len(etag) == 32 and all(letter in "0123456789abcdef" for letter in etag.lower())


# --- To S3 --------------------------------------------------------------------------------------


def upload(store: ObjectStore, path: Path, location: S3Location) -> VerifiedFile:
    """Write a file with its SHA-256 beside it, verify what the store holds, and describe it.

    Raises:
        OutputUnwritable: What the store holds differs from what was sent, twice in a row.
    """
    digests = measure_file(path)
    for _ in range(2):
        expected_etag = _send(store, path, location, digests=digests)
        etag = find_stored(store, location, digests=digests, expected_etag=expected_etag)
        if etag is not None:
            return VerifiedFile(
                path=path,
                source=location.uri,
                size=digests.size,
                sha256=digests.sha256,
                etag=etag,
            )
        logger.warning("An upload differed and is sent again", extra={"uri": location.uri})
    raise OutputUnwritable(
        f"{location.uri} differs from what was sent, twice in a row: the store does not keep what it"
        " is given; check the store and its proxies, or choose another output.uri.",
        reason="UploadCorrupted",
    )


def find_stored(
    store: ObjectStore, location: S3Location, *, digests: Digests, expected_etag: str | None = None
) -> str | None:
    """Return the ETag under which the store holds exactly these bytes, or None where it does not.

    Our own metadata is no proof: the store merely repeats it. Its ETag is one where it equals what
    we computed; otherwise the bytes are read back.
    """
    there = store.head(location)
    if there is None or there.size != digests.size:
        return None
    if there.etag in (digests.md5, expected_etag):
        return there.etag
    return there.etag if _read_back(store, there) == digests.sha256 else None


def holds(
    store: ObjectStore, location: S3Location, *, size: int, sha256: str, etag: str = ""
) -> bool:
    """Tell whether the store holds bytes of this size (in bytes) and hash (in hex).

    An ETag is the store's own word for one content: where it is still the one that was verified, so
    are the bytes. A copy in another bucket may have another, and is read.
    """
    there = store.head(location)
    if there is None or there.size != size:
        return False
    return (etag != "" and there.etag == etag) or _read_back(store, there) == sha256


def _read_back(store: ObjectStore, there: StoredObject) -> str:
    """Return the SHA-256 of what the store holds, or nothing where it changed meanwhile."""
    sha256, offset, backoff = hashlib.sha256(), 0, store.backoff.begin()
    while True:
        try:
            for chunk in store.stream(there.location, offset=offset, etag=there.etag):
                sha256.update(chunk)
                offset += len(chunk)
        except ObjectChanged:
            return ""
        except ServiceUnavailable:
            wait = next(backoff, None)
            if wait is None:
                raise
            store.backoff.sleep(wait)
        else:
            return sha256.hexdigest()


def _send(store: ObjectStore, path: Path, location: S3Location, *, digests: Digests) -> str:
    """Send the file and return the ETag that a plain store then gives."""
    metadata = {"sha256": digests.sha256}
    if digests.size <= SINGLE_PUT_BYTES:
        store.put(location, path.read_bytes(), metadata=metadata)
        return digests.md5
    upload_id = store.begin_upload(location, metadata=metadata)
    finished = False
    try:
        etags = _send_parts(store, path, location, upload_id=upload_id)
        store.finish_upload(location, upload_id, etags=etags)
        finished = True
    finally:
        if not finished:
            store.abort_upload(location, upload_id)
    joined = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags if _is_md5(etag.strip('"')))
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"


def _send_parts(
    store: ObjectStore, path: Path, location: S3Location, *, upload_id: str
) -> list[str]:
    """Send the parts, a few at once, each read when its turn comes."""

    def send(number: int) -> str:
        with path.open("rb") as file:
            file.seek((number - 1) * PART_BYTES)
            return store.put_part(location, upload_id, number=number, data=file.read(PART_BYTES))

    count = -(-path.stat().st_size // PART_BYTES)
    with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
        return list(pool.map(partial(send), range(1, count + 1)))
