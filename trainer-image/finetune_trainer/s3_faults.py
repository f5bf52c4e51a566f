"""What an S3 error means for the run: who must act, and whether another attempt can help.

Pure tables and sentences beside `s3`, which owns boto3 and hands over only an error's code and HTTP
status. Stores differ in both, so codes are asked first and the status where the code says nothing.
"""

import re
from dataclasses import dataclass
from enum import Enum

from finetune_trainer.errors import (
    AccessDenied,
    NotFound,
    OutputUnwritable,
    PlanInvalid,
    ServiceUnavailable,
    TrainerError,
)

BUCKET = re.compile(r"[a-zA-Z0-9._-]{3,63}")
"""Wider than AWS's rule: other stores allow capitals and underscores."""

TRANSIENT_CODES = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "TooManyRequests",
        "InternalError",
        "ServiceUnavailable",
        "OperationAborted",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "BadDigest",
    }
)
"""The next attempt may go through. IncompleteBody and BadDigest: bytes were lost on the way."""

KEY_CODES = {
    "InvalidAccessKeyId": "the store does not know the access key",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "InvalidToken": "the session token is not valid",
    "ExpiredToken": "the session token has expired",
    "TokenRefreshRequired": "the session token has expired",
    "AuthorizationHeaderMalformed": "AWS_REGION is not the bucket's region",
    "PermanentRedirect": "AWS_REGION is not the bucket's region",
    "IllegalLocationConstraintException": "AWS_REGION is not the bucket's region",
    "RequestTimeTooSkewed": "the clock of the node differs from the store's",
}
"""Refusals that say more than that the keys may not do this."""


class Action(Enum):
    """What was asked of the store, as a reader of a message says it."""

    LIST = "list"
    READ = "read"
    WRITE = "write"
    DELETE = "delete"


@dataclass(frozen=True)
class S3Location:
    """A bucket and a key in it; the key is a prefix where it ends in a slash or is empty."""

    bucket: str
    key: str = ""

    @property
    def uri(self) -> str:
        """The location as people write it."""
        return f"s3://{self.bucket}/{self.key}"

    def join(self, name: str) -> "S3Location":
        """Return the location of `name` below this one."""
        parent = self.key.rstrip("/")
        return S3Location(self.bucket, f"{parent}/{name}" if parent else name)


def parse_s3_uri(uri: str) -> S3Location:
    """Return the location that `uri` names.

    Raises:
        PlanInvalid: It is not of the form s3://bucket/key.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not BUCKET.fullmatch(bucket):
        raise PlanInvalid(
            f"The URI {uri!r} is malformed: expected s3://bucket/prefix with a bucket name of 3 to"
            " 63 letters, digits, dots and hyphens; correct it and apply again.",
            reason="UriInvalid",
        )
    return S3Location(bucket, key.lstrip("/"))


@dataclass(frozen=True)
class Refusal:
    """What a store answered: its own error code, where it gave one, and the HTTP status."""

    code: str
    status: int


def is_transient(refusal: Refusal) -> bool:
    """Tell whether the next attempt may go through."""
    if refusal.code in TRANSIENT_CODES or refusal.status == 429:
        return True
    # 501 says that the store lacks the operation: it will lack it next time too.
    return refusal.status >= 500 and refusal.status != 501


def diagnose_refusal(
    refusal: Refusal, *, action: Action, location: S3Location, subject: str
) -> TrainerError:
    """Return the error that ends the run; `subject` says what is there, as in "the dataset of sw"."""
    what = f"{_capital(subject)} at {location.uri}"
    if refusal.code == "NoSuchBucket":
        return build_bucket_not_found(location, subject=subject)
    if refusal.code in KEY_CODES:
        return AccessDenied(
            f"{what} cannot be {_PAST[action]}: {KEY_CODES[refusal.code]} ({refusal.code});"
            " correct the AWS_* keys in the Secret and apply again.",
            reason=refusal.code,
        )
    if refusal.status in (401, 403):
        return AccessDenied(
            f"{what} cannot be {_PAST[action]}: the store denied access"
            f" ({refusal.code or refusal.status}); allow these credentials to {action.value} it, or"
            " name a Secret with keys that may.",
            reason="AccessDenied",
        )
    if is_transient(refusal):
        return build_unavailable(location, subject=subject, why=_words(refusal))
    return _diagnose_rest(refusal, action=action, what=what)


def _diagnose_rest(refusal: Refusal, *, action: Action, what: str) -> TrainerError:
    if action is Action.WRITE:
        return OutputUnwritable(
            f"{what} cannot be written: the store answered {_words(refusal)}; make the bucket"
            " writable (quota, object lock, retention) or choose another output.uri.",
            reason="OutputUnwritable",
        )
    if refusal.code == "InvalidObjectState":
        return NotFound(
            f"{what} cannot be read: the object is archived; restore it to a storage class that can"
            " be read at once and apply again.",
            reason="ObjectArchived",
        )
    if refusal.status == 404:
        return NotFound(
            f"{what} does not exist; correct the URI or upload it, and apply again.",
            reason="ObjectNotFound",
        )
    return PlanInvalid(
        f"{what} cannot be {_PAST[action]}: the store answered {_words(refusal)}; check"
        " AWS_ENDPOINT_URL_S3, AWS_REGION and the URI, and apply again.",
        reason="RequestRefused",
    )


def build_bucket_not_found(location: S3Location, *, subject: str) -> NotFound:
    """Return the error for a bucket that does not exist."""
    return NotFound(
        f"{_capital(subject)} at {location.uri} cannot be reached: the bucket {location.bucket!r}"
        " does not exist at this endpoint; create it, or correct the URI or AWS_ENDPOINT_URL_S3, and"
        " apply again.",
        reason="BucketNotFound",
    )


def build_unavailable(location: S3Location, *, subject: str, why: str) -> ServiceUnavailable:
    """Return the error for a store that did not answer in time."""
    return ServiceUnavailable(
        f"{_capital(subject)} at {location.uri} could not be reached: {why}; the run is tried"
        " again, and if this lasts, check the store and AWS_ENDPOINT_URL_S3.",
        reason="StoreUnavailable",
    )


_PAST = {
    Action.LIST: "listed",
    Action.READ: "read",
    Action.WRITE: "written",
    Action.DELETE: "deleted",
}


def _words(refusal: Refusal) -> str:
    return f"HTTP {refusal.status} {refusal.code}".strip()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
