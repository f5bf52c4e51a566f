"""Files of a PersistentVolumeClaim, which the kubelet mounts read-only below one folder.

Below `fetch`. A claim is written by others while a pod reads it, so its links are not trusted: a link may
lead to another place of the same claim, as a cache of the Hub has them, and one that leads anywhere else
ends the run before anything is read. What is published later is copied at once, by descriptors that follow
no link. On a workstation the claims are folders of the user's own, with links to the user's own files.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_trainer.errors import DataInvalid, NotFound, PlanInvalid

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: a FIFO would wait for a writer before it shows what it is.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class ClaimFolder:
    """A file or folder of a claim that is inside it."""

    path: Path
    root: Path
    """The claim itself, without links."""
    uri: str
    """What messages call the path."""
    is_own: bool = False
    """Whether it belongs to the user of this machine, whose links may lead anywhere."""

    def find_real(self, path: Path) -> Path:
        """Return the regular file of the claim that a path leads to.

        Raises:
            DataInvalid: It leads out of the claim, to nothing, or to no regular file.
        """
        real = self._resolve(path)
        if not real.is_file():
            raise self._refuse(path, "is no regular file or leads to none")
        return real

    def copy(self, path: Path, target: Path) -> None:
        """Copy a file of the claim, through descriptors that follow no link on the way.

        Raises:
            DataInvalid: It leads out of the claim, or is no regular file.
            OSError: A part of its path was exchanged for a link meanwhile.
        """
        real = self.find_real(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as written:
            if self.is_own:
                with real.open("rb") as read:
                    shutil.copyfileobj(read, written)
                return
            with os.fdopen(_open_below(self.root, real.relative_to(self.root)), "rb") as read:
                if not stat.S_ISREG(os.fstat(read.fileno()).st_mode):
                    raise self._refuse(path, "is no regular file or leads to none")
                shutil.copyfileobj(read, written)

    def list(self) -> list[Path]:
        """Return every file below the folder, each by its name in it.

        Raises:
            PermissionError: A folder cannot be opened; its files would be missing without a word.
            DataInvalid: A name is no text, or a link leads out of the claim.
        """
        found = list(self._walk(self.path, seen=set()))
        for path in found:
            # Python stands half characters in for bytes that are no UTF-8.
            shown = path.name.encode("utf-8", "backslashreplace").decode("utf-8")
            if shown != path.name:
                raise DataInvalid(
                    f"{self.uri} holds a file whose name is not UTF-8 ({shown}): expected names in"
                    " UTF-8; rename the file and apply again.",
                    reason="UnsafeName",
                )
        return found

    def _walk(self, folder: Path, *, seen: set[Path]) -> Iterator[Path]:
        real = self._resolve(folder)
        if real in seen:
            return
        seen.add(real)
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            path = folder / entry.name
            if self._resolve(path).is_dir():
                yield from self._walk(path, seen=seen)
            else:
                self.find_real(path)
                yield path

    def _resolve(self, path: Path) -> Path:
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError) as fault:
            # A circle of links is a RuntimeError before Python 3.13, and ELOOP from then on.
            if isinstance(fault, OSError) and fault.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            raise self._refuse(path, "is a link that leads to nothing") from fault
        if not self.is_own and not real.is_relative_to(self.root):
            raise self._refuse(path, "is a link that leads out of its claim")
        return real

    def _refuse(self, path: Path, what: str) -> DataInvalid:
        inside = path.relative_to(self.path).as_posix() if path != self.path else path.name
        shown = inside.encode("utf-8", "backslashreplace").decode("utf-8")
        return DataInvalid(
            f"{shown!r} at {self.uri} {what}: expected regular files, and links only to files of the"
            " same claim; replace it by the file itself, or remove it, and apply again.",
            reason="LinkLeavesClaim",
        )


def find_in_claim(uri: str, *, what: str, claims: Path, is_own: bool = False) -> ClaimFolder:
    """Return where a pvc:// URI is mounted below `claims`.

    Args:
        uri: pvc://claim/path.
        what: What messages say that it holds.
        claims: Where claims are mounted.
        is_own: Whether `claims` is a folder of the user of this machine.

    Raises:
        PlanInvalid: The path leaves its claim.
        NotFound: There is nothing of that name.
    """
    claim, _, inside = uri.removeprefix("pvc://").partition("/")
    root = claims / claim
    escapes = ".." in PurePosixPath(inside).parts or claim in ("", ".", "..")
    path = (root / inside.strip("/")).resolve()
    if escapes or not (is_own or path.is_relative_to(root.resolve())):
        raise PlanInvalid(
            f"The URI {uri!r} of the {what} leaves its claim: expected pvc://claim/path without '..'"
            " or a link to the outside; correct it and apply again.",
            reason="UriInvalid",
        )
    if not path.exists():
        raise NotFound(
            f"The {what} at {uri} does not exist: the claim {claim!r} holds no {inside!r}; correct"
            " the path or copy the files there, and apply again.",
            reason="PathNotFound",
        )
    return ClaimFolder(path, root.resolve(), uri, is_own=is_own)


def _open_below(root: Path, inside: Path) -> int:
    """Open a file below a folder without following any link below it."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in inside.parts[:-1]:
            deeper = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = deeper
        return os.open(inside.name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
