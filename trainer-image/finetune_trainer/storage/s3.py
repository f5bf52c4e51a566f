"""S3: list, read, write and delete objects, with waits that grow and errors that are ours.

The only module that imports boto3. It lies below the stages: fetch reads through it, publish writes
through it, and neither sees an exception of boto3. `s3_faults` and `s3_errors` say what a refusal
means, `s3_transfer` moves whole files. Stores that only speak the old S3 work without a setting: no
checksum header is sent or demanded, a bare endpoint is addressed by path, and a store without
conditional writes is asked first.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)

from finetune_trainer.errors import PlanInvalid
from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.s3_errors import (
    Action,
    NotImplementedByStore,
    Refusal,
    WayFault,
    diagnose_fault,
    is_absent,
    may_pass,
)
from finetune_trainer.storage.s3_location import S3Location
from finetune_trainer.storage.s3_objects import StoredObject, encode_md5, read_sha256

logger = logging.getLogger(__name__)

DEFAULT_REGION = "us-east-1"
"""What S3-compatible stores expect unless the Secret says otherwise."""
AWS_DOMAIN = "amazonaws.com"
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
"""Seconds without a byte. A store that thinks longer is asked again."""
CHUNK_BYTES = 1 << 20

T = TypeVar("T")


class S3Store:
    """One set of credentials at one endpoint, seen as a store of whole objects."""

    def __init__(self, client: Any, *, subject: str, backoff: Backoff | None = None) -> None:
        self._client = client
        self.subject = subject
        """What is stored there, for messages: "the dataset of sw", "the output"."""
        self.backoff = backoff or Backoff()

    def with_backoff(self, backoff: Backoff) -> "S3Store":
        """Return the same store with another patience."""
        return S3Store(self._client, subject=self.subject, backoff=backoff)

    def list(self, prefix: S3Location) -> Iterator[StoredObject]:
        """Yield every object whose key begins with the prefix, in the order of their keys.

        Raises:
            NotFound: The bucket does not exist.
        """
        token: dict[str, str] = {}
        while True:
            page = self._ask(
                Action.LIST,
                prefix,
                partial(
                    self._client.list_objects_v2, Bucket=prefix.bucket, Prefix=prefix.key, **token
                ),
            )
            for entry in page.get("Contents", ()):
                yield StoredObject(
                    location=S3Location(prefix.bucket, entry["Key"]),
                    size=entry["Size"],
                    etag=entry.get("ETag", "").strip('"'),
                )
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def head(self, location: S3Location) -> StoredObject | None:
        """Return what the store says of one object, or None where there is none."""
        answer = self._ask(
            Action.READ,
            location,
            lambda: self._client.head_object(
                Bucket=location.bucket, Key=location.key, ChecksumMode="ENABLED"
            ),
            is_absent_fine=True,
        )
        if answer is None:
            return None
        return StoredObject(
            location=location,
            size=answer["ContentLength"],
            etag=answer.get("ETag", "").strip('"'),
            sha256=read_sha256(answer),
            is_encrypted="SSECustomerAlgorithm" in answer
            or str(answer.get("ServerSideEncryption", "")).startswith("aws:kms"),
        )

    def read(self, location: S3Location) -> tuple[bytes, str] | None:
        """Return a small object's bytes and its ETag, or None where there is none."""

        def get() -> tuple[bytes, str]:
            answer = self._client.get_object(Bucket=location.bucket, Key=location.key)
            return answer["Body"].read(), answer.get("ETag", "").strip('"')

        return self._ask(Action.READ, location, get, is_absent_fine=True)

    def stream(self, location: S3Location, *, offset: int, etag: str) -> Iterator[bytes]:
        """Yield the bytes from `offset` on, of exactly the version that `etag` names; never waits.

        A store that ignores ranges sends from the start, and what is before `offset` is dropped.

        Raises:
            ObjectChanged: Another version stands there now.
            ServiceUnavailable: The stream broke; the caller goes on from where it is.
        """
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            answer = self._client.get_object(
                Bucket=location.bucket, Key=location.key, IfMatch=f'"{etag}"', **wanted
            )
            surplus = 0 if "ContentRange" in answer else offset
            for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
                if surplus < len(chunk):
                    yield chunk[surplus:]
                surplus = max(0, surplus - len(chunk))
        except (ClientError, BotoCoreError) as raised:
            fault = read_fault(raised)
            raise diagnose_fault(fault, Action.READ, location, subject=self.subject) from raised

    def put(
        self,
        location: S3Location,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Write one object whole and return its ETag."""
        answer = self._ask(
            Action.WRITE,
            location,
            lambda: self._client.put_object(
                Bucket=location.bucket,
                Key=location.key,
                Body=data,
                ContentType=content_type,
                ContentMD5=encode_md5(data),
                Metadata=dict(metadata or {}),
            ),
        )
        return str(answer["ETag"]).strip('"')

    def put_if(
        self,
        location: S3Location,
        data: bytes,
        *,
        etag: str | None,
        content_type: str = "application/json",
    ) -> str | None:
        """Write only over the version that `etag` names, None meaning that there is none yet.

        Returns:
            The new ETag, or None where somebody else was first.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": f'"{etag}"'}

        def write() -> str | None:
            try:
                answer = self._client.put_object(
                    Bucket=location.bucket,
                    Key=location.key,
                    Body=data,
                    ContentType=content_type,
                    ContentMD5=encode_md5(data),
                    **condition,
                )
            except ClientError as fault:
                if fault.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                    return None
                raise
            return str(answer["ETag"]).strip('"')

        try:
            written = self._ask(Action.WRITE, location, write, is_absent_fine=etag is not None)
        except NotImplementedByStore:
            return self._put_after_asking(location, data, etag=etag, content_type=content_type)
        return written or self._find_own(location, data)

    def delete(self, locations: Sequence[S3Location]) -> None:
        """Delete objects; one that is not there is no error."""
        for location in locations:
            # One by one: the batch call demands a checksum header that older stores do not know.
            self._ask(
                Action.DELETE,
                location,
                partial(self._client.delete_object, Bucket=location.bucket, Key=location.key),
                is_absent_fine=True,
            )

    def check_readable(self, prefix: S3Location) -> None:
        """Ask the store for one key, so that a missing bucket or a wrong key is reported early.

        Raises:
            NotFound: The bucket does not exist.
            AccessDenied: The credentials are refused.
        """
        self._ask(
            Action.LIST,
            prefix,
            lambda: self._client.list_objects_v2(
                Bucket=prefix.bucket, Prefix=prefix.key, MaxKeys=1
            ),
        )

    def check_writable(self, prefix: S3Location) -> None:
        """Begin an upload and drop it again: tells before the first step and leaves nothing.

        The bucket is asked for first, because some stores create one by writing to it.

        Raises:
            NotFound: The bucket does not exist.
            AccessDenied: The credentials may not write.
            OutputUnwritable: The store refuses for another reason.
        """
        self.check_readable(prefix)
        probe = prefix.join(".write-check")
        # A store without uploads in parts still takes an adapter in one piece.
        with suppress(NotImplementedByStore):
            self.abort_upload(probe, self.begin_upload(probe, metadata={}))

    def begin_upload(self, location: S3Location, *, metadata: Mapping[str, str]) -> str:
        """Begin an upload in parts and return its id."""
        answer = self._ask(
            Action.WRITE,
            location,
            lambda: self._client.create_multipart_upload(
                Bucket=location.bucket, Key=location.key, Metadata=dict(metadata)
            ),
        )
        return str(answer["UploadId"])

    def put_part(self, location: S3Location, upload: str, *, number: int, data: bytes) -> str:
        """Write part `number`, counted from 1, and return its ETag."""
        answer = self._ask(
            Action.WRITE,
            location,
            lambda: self._client.upload_part(
                Bucket=location.bucket,
                Key=location.key,
                UploadId=upload,
                PartNumber=number,
                Body=data,
                ContentMD5=encode_md5(data),
            ),
        )
        return str(answer["ETag"])

    def finish_upload(self, location: S3Location, upload: str, *, etags: Sequence[str]) -> None:
        """Join the parts; harmless when an earlier answer was lost and the object is already there."""
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(etags, start=1)]
        self._ask(
            Action.WRITE,
            location,
            lambda: self._client.complete_multipart_upload(
                Bucket=location.bucket,
                Key=location.key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            ),
            # NoSuchUpload: it was completed by a request whose answer was lost. The caller
            # verifies the object in any case.
            is_absent_fine=True,
        )

    def abort_upload(self, location: S3Location, upload: str) -> None:
        """Drop an upload in parts; a failure to drop it is logged and nothing more."""
        try:
            self._client.abort_multipart_upload(
                Bucket=location.bucket, Key=location.key, UploadId=upload
            )
        except (ClientError, BotoCoreError) as fault:
            logger.warning(
                "An unfinished upload was left behind",
                extra={"uri": location.uri, "fault": type(fault).__name__},
            )

    def _put_after_asking(
        self, location: S3Location, data: bytes, *, etag: str | None, content_type: str
    ) -> str | None:
        """Stand in for a conditional write where the store has none; a race of moments remains."""
        there = self.head(location)
        if (there.etag if there else None) != etag:
            return self._find_own(location, data)
        return self.put(location, data, content_type=content_type)

    def _find_own(self, location: S3Location, data: bytes) -> str | None:
        """Return the ETag where these very bytes stand there: an earlier answer was lost."""
        there = self.read(location)
        return there[1] if there is not None and there[0] == data else None

    def _ask(
        self,
        action: Action,
        location: S3Location,
        operation: Callable[[], T],
        *,
        is_absent_fine: bool = False,
    ) -> T | Any:
        """Run one request, again and again while the fault may pass, and translate what remains."""
        backoff = self.backoff.begin()
        while True:
            try:
                return operation()
            except (ClientError, BotoCoreError) as raised:
                fault = read_fault(raised)
                if is_absent_fine and is_absent(fault):
                    return None
                wait = next(backoff, None) if may_pass(fault) else None
                if wait is None:
                    error = diagnose_fault(fault, action, location, subject=self.subject)
                    raise error from raised
                logger.info("S3 is asked again", extra={"uri": location.uri, "wait_s": wait})
                self.backoff.sleep(wait)


def connect(credentials: Credentials, *, subject: str, backoff: Backoff | None = None) -> S3Store:
    """Return the store that these credentials open, `subject` naming in messages what is there.

    Raises:
        PlanInvalid: AWS_ENDPOINT_URL_S3 is not a URL.
    """
    session = boto3.Session(
        aws_access_key_id=credentials.access_key_id,
        aws_secret_access_key=credentials.secret_access_key,
        aws_session_token=credentials.session_token,
        region_name=credentials.region,
    )
    config = Config(
        region_name=session.region_name or DEFAULT_REGION,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Our own waits are the retries; boto3's would multiply them.
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        user_agent_extra="language-finetune",
    )
    open_client = partial(session.client, "s3", endpoint_url=credentials.endpoint_url)
    try:
        client = open_client(config=config)
        if AWS_DOMAIN not in client.meta.endpoint_url:
            # Few other stores have a name in DNS for every bucket. Asked of the client, because the
            # endpoint may come from the pod's environment or a profile.
            client = open_client(config=config.merge(Config(s3={"addressing_style": "path"})))
    except ValueError as fault:
        raise PlanInvalid(
            # Not shown: where the Secret's keys are mixed up, it holds a credential.
            f"AWS_ENDPOINT_URL_S3 of {subject} is no URL: expected http:// or https:// and a host;"
            " correct the Secret and apply again.",
            reason="EndpointInvalid",
        ) from fault
    return S3Store(client, subject=subject, backoff=backoff)


def read_fault(raised: ClientError | BotoCoreError) -> Refusal | WayFault:
    """Return one of boto3's exceptions as a value."""
    if isinstance(raised, ClientError):
        status = raised.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(raised.response.get("Error", {}).get("Code", ""))
        # HEAD has no body: boto3 then gives the status as the code.
        return Refusal(code="" if code.isdigit() else code, status=int(status))
    if isinstance(raised, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return WayFault.NO_CREDENTIALS
    if isinstance(raised, ParamValidationError):
        return WayFault.MALFORMED
    if isinstance(raised, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(raised):
        return WayFault.UNTRUSTED
    return WayFault.UNREACHABLE
