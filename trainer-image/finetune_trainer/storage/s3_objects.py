"""Objects of a store as it describes them, and the checksums that both sides know.

Pure, below `s3`. A SHA-256 is the store's own where it gives one, else the one that was written
beside the object.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.storage.s3_location import S3Location


@dataclass(frozen=True)
class StoredObject:
    """One object as the store describes it."""

    location: S3Location
    size: int
    """Bytes."""
    etag: str
    """Without quotes."""
    sha256: str | None = None
    """Hex, from the store's own checksum or from our metadata; a list never holds it."""
    is_encrypted: bool = False
    """Encrypted with a key of its own, so that the ETag is not an MD5."""


def encode_md5(data: bytes) -> str:
    """Return the Content-MD5 header: every store checks it, and it fails what was lost on the way."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def read_sha256(answer: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 that the store computed, or else the one we wrote beside the object."""
    checksum = answer.get("ChecksumSHA256")
    if checksum and answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        return base64.b64decode(checksum).hex()
    noted = str(answer.get("Metadata", {}).get("sha256", "")).lower()
    return noted if len(noted) == 64 else None
