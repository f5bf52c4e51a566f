"""Files of a PersistentVolumeClaim, which the kubelet mounts read-only below one folder.

Below `fetch`. Nothing outside a claim is ever returned, and nothing in it is passed over in silence.
"""

import os
from pathlib import Path, PurePosixPath

from finetune_trainer.errors import DataInvalid, NotFound, PlanInvalid


def find_in_claim(uri: str, *, what: str, claims: Path) -> Path:
    """Return where a pvc:// URI is mounted below `claims`; `what` says in messages what it holds.

    Raises:
        PlanInvalid: The path leaves its claim.
        NotFound: There is nothing of that name.
    """
    claim, _, inside = uri.removeprefix("pvc://").partition("/")
    root = claims / claim
    escapes = ".." in PurePosixPath(inside).parts or claim in ("", ".", "..")
    path = (root / inside.strip("/")).resolve()
    if escapes or not path.is_relative_to(root.resolve()):
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
    return path


def list_claim(folder: Path, *, uri: str) -> list[Path]:
    """Return every file below a folder of a claim.

    Raises:
        PermissionError: A folder cannot be opened; its files would be missing without a word.
        DataInvalid: A name is no text, which could be neither printed nor hashed.
    """
    found: list[Path] = []
    for place, _, names in os.walk(folder, onerror=_raise):
        found += [path for name in names if (path := Path(place, name)).is_file()]
    for path in found:
        # Python stands half characters in for bytes that are no UTF-8.
        shown = path.name.encode("utf-8", "backslashreplace").decode("utf-8")
        if shown != path.name:
            raise DataInvalid(
                f"{uri} holds a file whose name is not UTF-8 ({shown}): expected names in UTF-8;"
                " rename the file and apply again.",
                reason="UnsafeName",
            )
    return found


def _raise(fault: OSError) -> None:
    raise fault
