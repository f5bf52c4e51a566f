"""Why a request to S3 failed, as a value, and the trainer error for each cause.

Pure: tables and messages beside `s3`, which alone knows boto3's exceptions and passes on an error's
code and HTTP status. Stores differ in both, so codes are looked up first and the status decides where
the code says nothing.
"""

from dataclasses import dataclass
from enum import Enum

from finetune_trainer.errors import (
    AccessDenied,
    EnvironmentUnfit,
    NotFound,
    OutputUnwritable,
    PlanInvalid,
    ServiceUnavailable,
    TrainerError,
)
from finetune_trainer.storage.s3_location import S3Location

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


class WayFault(Enum):
    """Why a request got no answer."""

    NO_CREDENTIALS = "no credentials"
    MALFORMED = "malformed name"
    UNTRUSTED = "untrusted certificate"
    UNREACHABLE = "no connection"


class ObjectChanged(ServiceUnavailable):
    """The object was replaced while it was read; the reader begins again."""


class NotImplementedByStore(OutputUnwritable):
    """The store lacks an operation; conditional writes have a stand-in."""


def may_pass(fault: Refusal | WayFault) -> bool:
    """Tell whether the same request may succeed a moment later."""
    if isinstance(fault, Refusal):
        return is_transient(fault)
    return fault is WayFault.UNREACHABLE


def is_absent(fault: Refusal | WayFault) -> bool:
    """Tell whether an object is not there; a bucket that is not there is another matter."""
    return isinstance(fault, Refusal) and fault.status == 404 and fault.code != "NoSuchBucket"


def diagnose_fault(
    fault: Refusal | WayFault, action: Action, location: S3Location, *, subject: str
) -> TrainerError:
    """Return the error that ends the run, `subject` saying what stands at the location."""
    if isinstance(fault, Refusal):
        return _diagnose_answer(fault, action, location, subject=subject)
    if fault is WayFault.NO_CREDENTIALS:
        return AccessDenied(
            f"No S3 credentials were found for {subject} at {location.uri}: expected"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in a Secret or an identity of the pod;"
            " name the Secret in secretRef and apply again.",
            reason="CredentialsMissing",
        )
    if fault is WayFault.MALFORMED:
        return PlanInvalid(
            f"The URI {location.uri!r} of {subject} is refused before it is sent: bucket or"
            " key is malformed; correct it and apply again.",
            reason="UriInvalid",
        )
    if fault is WayFault.UNTRUSTED:
        return EnvironmentUnfit(
            f"The certificate of the S3 endpoint of {subject} is not trusted; add its"
            " authority to the image or set AWS_CA_BUNDLE.",
            reason="CertificateNotTrusted",
        )
    return build_unavailable(location, subject=subject, why=fault.value)


def _diagnose_answer(
    refusal: Refusal, action: Action, location: S3Location, *, subject: str
) -> TrainerError:
    if action is Action.READ and refusal.status == 412:
        return ObjectChanged(f"{location.uri} was replaced while it was read.")
    if action is Action.WRITE and refusal.status == 501:
        return NotImplementedByStore(
            f"{location.uri} of {subject} cannot be written: the store does not know this kind of"
            " write (HTTP 501); choose another store and apply again."
        )
    return diagnose_refusal(refusal, action=action, location=location, subject=subject)
