"""What refusals of a store mean, how long the trainer waits, and a disk that is full or closed."""

import errno
import os
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError, SSLError

from finetune_api.wire import ExitCode
from finetune_trainer import errors
from finetune_trainer.errors import AccessDenied, DataInvalid, EnvironmentUnfit, TrainerError
from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.disk_errors import translate_os_errors
from finetune_trainer.storage.s3 import read_fault
from finetune_trainer.storage.s3_errors import (
    Action,
    Refusal,
    diagnose_fault,
    diagnose_refusal,
    is_transient,
    may_pass,
)
from finetune_trainer.storage.s3_location import S3Location

PLACE = S3Location("adapters", "sw/")

REFUSALS = {
    "missing bucket": (Refusal("NoSuchBucket", 404), Action.WRITE, 66, "BucketNotFound"),
    "expired token, reported by status 400": (
        Refusal("ExpiredToken", 400),
        Action.READ,
        77,
        "ExpiredToken",
    ),
    "another region": (
        Refusal("AuthorizationHeaderMalformed", 400),
        Action.LIST,
        77,
        "AuthorizationHeaderMalformed",
    ),
    "forbidden without a body": (Refusal("", 403), Action.READ, 77, "AccessDenied"),
    "busy": (Refusal("SlowDown", 503), Action.WRITE, 69, "StoreUnavailable"),
    "too many requests": (Refusal("", 429), Action.READ, 69, "StoreUnavailable"),
    "full": (Refusal("QuotaExceeded", 409), Action.WRITE, 73, "OutputUnwritable"),
    "read only": (Refusal("MethodNotAllowed", 405), Action.WRITE, 73, "OutputUnwritable"),
    "archived": (Refusal("InvalidObjectState", 400), Action.READ, 66, "ObjectArchived"),
    "missing object": (Refusal("NoSuchKey", 404), Action.READ, 66, "ObjectNotFound"),
    "not S3 at all": (Refusal("", 405), Action.LIST, 64, "RequestRefused"),
}


@pytest.mark.parametrize(
    ("refusal", "action", "code", "reason"), REFUSALS.values(), ids=list(REFUSALS)
)
def test_a_refusal_says_who_must_act(
    refusal: Refusal, action: Action, code: int, reason: str
) -> None:
    error = diagnose_refusal(refusal, action=action, location=PLACE, subject="the output")
    assert (error.exit_code, error.reason) == (code, reason)
    assert "s3://adapters/sw/" in error.message
    assert error.message.endswith((".", "again."))


def test_a_lacking_operation_is_not_asked_for_again() -> None:
    assert not is_transient(Refusal("NotImplemented", 501))


def test_an_untrusted_certificate_is_the_owner_s_to_mend() -> None:
    raised = SSLError(endpoint_url="https://s3", error="[SSL: CERTIFICATE_VERIFY_FAILED]")
    fault = read_fault(raised)
    error = diagnose_fault(fault, Action.LIST, PLACE, subject="the output")
    assert not may_pass(fault)
    assert error.exit_code == ExitCode.ENVIRONMENT_UNFIT
    assert error.message == (
        "The certificate of the S3 endpoint of the output is not trusted; add its authority to the"
        " image or set AWS_CA_BUNDLE."
    )


def test_no_credentials_at_all_are_told_with_the_remedy() -> None:
    error = diagnose_fault(
        read_fault(NoCredentialsError()), Action.READ, PLACE, subject="the model"
    )
    assert error.message == (
        "No S3 credentials were found for the model at s3://adapters/sw/: expected AWS_ACCESS_KEY_ID"
        " and AWS_SECRET_ACCESS_KEY in a Secret or an identity of the pod; name the Secret in"
        " secretRef and apply again."
    )


def test_every_exit_code_but_success_has_one_error() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, TrainerError) and kind is not TrainerError
    ]
    assert sorted(kind.exit_code for kind in kinds) == [
        code for code in ExitCode if code is not ExitCode.DONE
    ]


def test_waits_grow_to_a_longest_and_end_at_their_sum() -> None:
    backoff = Backoff(first_s=1, longest_s=4, total_s=12, chance=lambda: 1.0)
    assert list(backoff.begin()) == [1, 2, 4, 4, 1]


def test_a_full_disk_is_told_with_the_remedy() -> None:
    with (
        pytest.raises(EnvironmentUnfit) as error,
        translate_os_errors(Path("/work"), uri="pvc://c/x"),
    ):
        Path("/dev/full").write_bytes(b"x" * 100)
    assert error.value.message == (
        "The scratch volume at /work is full while files are fetched; raise the pod's"
        " ephemeral-storage in resources.limits and apply again."
    )


def test_another_fault_of_the_disk_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, translate_os_errors(tmp_path, uri="pvc://c/x"):
        (tmp_path / "none").read_bytes()
    assert error.value.errno == errno.ENOENT


def test_a_file_of_a_claim_that_may_not_be_read_is_named_with_the_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(AccessDenied) as error,
        translate_os_errors(tmp_path, uri="pvc://corpora/sw/"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "/claims/corpora/sw/a.jsonl")
    assert error.value.message == (
        f"pvc://corpora/sw/ cannot be read: the trainer runs as user {os.getuid()}, which may not"
        " read 'a.jsonl'; let everybody read the claim's files (chmod -R a+rX), or set the claim's"
        " group, and apply again."
    )


def test_a_key_that_is_longer_than_a_name_may_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid) as error, translate_os_errors(tmp_path, uri="s3://corpora/sw/"):
        (tmp_path / ("x" * 300)).write_text("")
    assert error.value.message == (
        "s3://corpora/sw/ holds a key that no file can have (File name too long): expected names of at"
        " most 255 bytes, none of which is a folder of another; rename the object and apply again."
    )
