"""Where an object is: a bucket and a key in S3, or a path; read from a URI and written as one."""

import re
from dataclasses import dataclass

from finetune_trainer.errors import PlanInvalid

BUCKET = re.compile(r"[a-zA-Z0-9._-]{3,63}")
"""Wider than AWS's rule: other stores allow capitals and underscores."""


FILE_SCHEME = "file://"
"""Of a folder of this machine, which only a run without a cluster writes to."""


@dataclass(frozen=True)
class S3Location:
    """A bucket and a key in it; the key is a prefix where it ends in a slash or is empty.

    Without a bucket it is a path of this machine, without its leading slash.
    """

    bucket: str
    key: str = ""

    @property
    def uri(self) -> str:
        """The location as people write it."""
        return f"s3://{self.bucket}/{self.key}" if self.bucket else f"{FILE_SCHEME}/{self.key}"

    def join(self, name: str) -> "S3Location":
        """Return the location of `name` below this one."""
        parent = self.key.rstrip("/")
        return S3Location(self.bucket, f"{parent}/{name}" if parent else name)


def parse_s3_uri(uri: str) -> S3Location:
    """Return the location that `uri` names.

    Raises:
        PlanInvalid: It is not of the form s3://bucket/key.
    """
    if uri.startswith(f"{FILE_SCHEME}/"):
        return S3Location("", uri.removeprefix(FILE_SCHEME).strip("/"))
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not BUCKET.fullmatch(bucket):
        raise PlanInvalid(
            f"The URI {uri!r} is malformed: expected s3://bucket/prefix with a bucket name of 3 to"
            " 63 letters, digits, dots and hyphens; correct it and apply again.",
            reason="UriInvalid",
        )
    return S3Location(bucket, key.lstrip("/"))
