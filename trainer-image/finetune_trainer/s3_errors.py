"""What ends a request to S3 without success, as plain values, and our error for each.

Pure, between `s3`, which alone knows boto3's exceptions, and `s3_faults`, which says what a store's
answer means. Here are the faults of the way there, and the two that their callers wait for.
"""

from enum import Enum

from finetune_trainer.errors import (
    AccessDenied,
    EnvironmentUnfit,
    OutputUnwritable,
    PlanInvalid,
    ServiceUnavailable,
    TrainerError,
)
from finetune_trainer.s3_faults import (
    Action,
    Refusal,
    S3Location,
    build_unavailable,
    diagnose_refusal,
    is_transient,
)


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
