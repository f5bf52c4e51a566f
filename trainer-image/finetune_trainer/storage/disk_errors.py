"""What the file system refuses while files are fetched, in words that say who must act.

Below `fetch`, beside `s3_faults`. Whatever else a disk says is no fault that anybody expected.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_trainer.errors import AccessDenied, DataInvalid, EnvironmentUnfit, TrainerError

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_NAMES = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""What a disk says of keys that S3 allows and a file system does not."""


@contextmanager
def translate_os_errors(folder: Path, *, uri: str) -> Iterator[None]:
    """Turn what the file system refuses into our errors; `uri` says what is brought to `folder`.

    Raises:
        EnvironmentUnfit: The disk is full.
        AccessDenied: The trainer's user may not read a file of a claim.
        DataInvalid: A name is one that no file can have beside the others.
    """
    try:
        yield
    except OSError as fault:
        error = _diagnose(fault, folder=folder, uri=uri)
        if error is None:
            raise
        raise error from fault


def _diagnose(fault: OSError, *, folder: Path, uri: str) -> TrainerError | None:
    if isinstance(fault, PermissionError):
        return AccessDenied(
            f"{uri} cannot be read: the trainer runs as user {os.getuid()}, which may not read"
            f" {Path(fault.filename or '').name!r}; let everybody read the claim's files"
            " (chmod -R a+rX), or set the claim's group, and apply again.",
            reason="FileNotReadable",
        )
    if fault.errno in NO_NAMES:
        return DataInvalid(
            f"{uri} holds a key that no file can have ({os.strerror(fault.errno or 0)}): expected names"
            " of at most 255 bytes, none of which is a folder of another; rename the object and apply"
            " again.",
            reason="UnsafeName",
        )
    if fault.errno in FULL:
        return EnvironmentUnfit(
            f"The scratch volume at {folder} is full while files are fetched; raise the pod's"
            " ephemeral-storage in resources.limits and apply again.",
            reason="DiskFull",
        )
    return None
