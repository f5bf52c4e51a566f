"""What publishing, checkpoints and measuring ask of a store of objects, whatever holds them.

`s3` and `folder_store` implement it; `connect_output` chooses by the scheme of `output.uri`. One
protocol for both: a file is verified after it is written, a manifest is written last, and the pointer
is replaced only over the version that was read.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self

from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.s3_location import S3Location
from finetune_trainer.storage.s3_objects import StoredObject


class ObjectStore(Protocol):
    """A store of whole objects. `S3Store` documents what each method returns and raises."""

    @property
    def subject(self) -> str:
        """What is stored there, for messages: "the output"."""

    @property
    def backoff(self) -> Backoff:
        """Delays between two attempts at one request."""

    def with_backoff(self, backoff: Backoff) -> Self:
        """Return the same store with other waits."""

    def list(self, prefix: S3Location) -> Iterator[StoredObject]:
        """Yield every object whose key begins with the prefix, in the order of their keys."""

    def head(self, location: S3Location) -> StoredObject | None:
        """Return the description of one object, or None if there is none."""

    def read(self, location: S3Location) -> tuple[bytes, str] | None:
        """Return the bytes and the ETag of a small object, or None if there is none."""

    def stream(self, location: S3Location, *, offset: int, etag: str) -> Iterator[bytes]:
        """Yield the bytes from `offset` on of the version that `etag` names."""

    def put(
        self,
        location: S3Location,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Write one object whole and return its ETag."""

    def put_if(
        self,
        location: S3Location,
        data: bytes,
        *,
        etag: str | None,
        content_type: str = "application/json",
    ) -> str | None:
        """Write only over the version that `etag` names; return the new ETag, or None on a conflict."""

    def delete(self, locations: Sequence[S3Location]) -> None:
        """Delete objects; an absent one is no error."""

    def check_readable(self, prefix: S3Location) -> None:
        """Raise if the store cannot be listed."""

    def check_writable(self, prefix: S3Location) -> None:
        """Raise if nothing can be written below the prefix."""

    def begin_upload(self, location: S3Location, *, metadata: Mapping[str, str]) -> str:
        """Begin an upload in parts and return its id."""

    def put_part(self, location: S3Location, upload: str, *, number: int, data: bytes) -> str:
        """Write part `number`, counted from 1, and return its ETag."""

    def finish_upload(self, location: S3Location, upload: str, *, etags: Sequence[str]) -> None:
        """Join the parts to one object."""

    def abort_upload(self, location: S3Location, upload: str) -> None:
        """Drop an upload in parts."""
