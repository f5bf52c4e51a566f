"""A store of objects in memory that loses its power at a write of one's choice.

It stands for S3 where a test cuts thousands of times; what a real store does is tested on a real one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.s3_location import S3Location
from finetune_trainer.storage.s3_objects import StoredObject


class PowerCut(BaseException):
    """The pod is gone in this moment; nothing catches it."""


@dataclass
class StoreInMemory:
    """What checkpoints ask of `S3Store`."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """By key."""
    writes_left: int = -1
    """After so many changes comes the cut; never where negative."""
    does_last: bool = False
    """Whether the change that is cut was done, and only its answer was lost."""
    backoff: Backoff = field(default_factory=lambda: Backoff(total_s=0.0))
    subject: str = "the output"

    def list(self, prefix: S3Location) -> Iterator[StoredObject]:
        for key in sorted(key for key in self.objects if key.startswith(prefix.key)):
            yield self._describe(S3Location(prefix.bucket, key))

    def head(self, location: S3Location) -> StoredObject | None:
        return self._describe(location) if location.key in self.objects else None

    def read(self, location: S3Location) -> tuple[bytes, str] | None:
        data = self.objects.get(location.key)
        return None if data is None else (data, _etag(data))

    def stream(self, location: S3Location, *, offset: int, etag: str) -> Iterator[bytes]:
        assert _etag(self.objects[location.key]) == etag
        yield self.objects[location.key][offset:]

    def put(self, location: S3Location, data: bytes, **_: Any) -> str:
        self._change(lambda: self.objects.__setitem__(location.key, data))
        return _etag(data)

    def delete(self, locations: Sequence[Any]) -> None:
        for each in locations:
            key = getattr(each, "location", each).key
            self._change(lambda key=key: self.objects.pop(key, None))

    def _change(self, change: Any) -> None:
        is_cut = self.writes_left == 0
        self.writes_left -= 1
        if not is_cut or self.does_last:
            change()
        if is_cut:
            raise PowerCut

    def _describe(self, location: S3Location) -> StoredObject:
        data = self.objects[location.key]
        return StoredObject(location=location, size=len(data), etag=_etag(data))


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
