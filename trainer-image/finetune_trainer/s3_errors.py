"""boto3's exceptions, and what they are for us.

The other half of `s3`, which alone raises from here: together they are all that knows boto3. What a
store's answer means stands in `s3_faults`; here are the faults of the way there.
"""

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)

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


class ObjectChanged(ServiceUnavailable):
    """The object was replaced while it was read; the reader begins again."""


class NotImplementedByStore(OutputUnwritable):
    """The store lacks an operation; conditional writes have a stand-in."""


def diagnose_fault(
    fault: Exception, action: Action, location: S3Location, *, subject: str
) -> TrainerError:
    """Return our error for one of boto3's."""
    if isinstance(fault, ClientError):
        refusal = read_refusal(fault)
        if action is Action.READ and refusal.status == 412:
            return ObjectChanged(f"{location.uri} was replaced while it was read.")
        if action is Action.WRITE and refusal.status == 501:
            return NotImplementedByStore(
                f"{location.uri} of {subject} cannot be written: the store does not know this kind of"
                " write (HTTP 501); choose another store and apply again."
            )
        return diagnose_refusal(refusal, action=action, location=location, subject=subject)
    if isinstance(fault, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return AccessDenied(
            f"No S3 credentials were found for {subject} at {location.uri}: expected"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in a Secret or an identity of the pod;"
            " name the Secret in secretRef and apply again.",
            reason="CredentialsMissing",
        )
    if isinstance(fault, ParamValidationError):
        return PlanInvalid(
            f"The URI {location.uri!r} of {subject} is refused before it is sent: bucket or"
            " key is malformed; correct it and apply again.",
            reason="UriInvalid",
        )
    if _is_untrusted(fault):
        return EnvironmentUnfit(
            f"The certificate of the S3 endpoint of {subject} is not trusted; add its"
            " authority to the image or set AWS_CA_BUNDLE.",
            reason="CertificateNotTrusted",
        )
    return build_unavailable(location, subject=subject, why=type(fault).__name__)


def may_pass(fault: ClientError | BotoCoreError) -> bool:
    """Tell whether the same request may succeed a moment later."""
    if isinstance(fault, ClientError):
        return is_transient(read_refusal(fault))
    lasting = (
        NoCredentialsError,
        PartialCredentialsError,
        ParamValidationError,
    )
    return not isinstance(fault, lasting) and not _is_untrusted(fault)


def _is_untrusted(fault: Exception) -> bool:
    return isinstance(fault, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(fault)


def read_refusal(fault: ClientError) -> Refusal:
    """Return what the store answered."""
    error = fault.response.get("Error", {})
    status = fault.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error.get("Code", ""))
    # HEAD has no body: boto3 then gives the status as the code.
    return Refusal(code="" if code.isdigit() else code, status=int(status))


def is_absent(fault: ClientError | BotoCoreError) -> bool:
    """Tell whether an object is not there; a bucket that is not there is another matter."""
    if not isinstance(fault, ClientError):
        return False
    refusal = read_refusal(fault)
    return refusal.status == 404 and refusal.code != "NoSuchBucket"
