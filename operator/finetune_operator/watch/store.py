"""What the cluster held when it was last heard of: projected objects, indexed.

The reflector and the resource cache fill it, gather and the status server read it. An older version
of an object never replaces a newer one, whatever order lists, watches and our own writes arrive in.
In memory only; nothing here makes a request.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from finetune_operator.raw_object import RawObject

T = TypeVar("T")


class Key(NamedTuple):
    """Which LanguageFinetune."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Change(StrEnum):
    """What happened to an object."""

    ADDED = "Added"
    MODIFIED = "Modified"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One object of the cluster: its identity, its version and its projection."""

    namespace: str
    name: str
    uid: str
    version: int
    """resourceVersion. Comparable within one kind since Kubernetes 1.35, and in etcd always."""
    owner_uid: str
    """uid of the controlling owner, or empty."""
    owner_name: str
    value: T


class Store(Generic[T]):
    """The objects of one kind, found by uid, by owner and by name.

    Args:
        project: makes the value that is kept of a raw object.
    """

    def __init__(self, project: Callable[[RawObject], T]) -> None:
        self._project = project
        self._by_uid: dict[str, Entry[T]] = {}
        self._by_owner: dict[str, dict[str, Entry[T]]] = {}
        self._by_name: dict[Key, str] = {}

    def __len__(self) -> int:
        return len(self._by_uid)

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(list(self._by_uid.values()))

    def get(self, uid: str) -> Entry[T] | None:
        """Return the object with this uid."""
        return self._by_uid.get(uid)

    def get_by_name(self, key: Key) -> Entry[T] | None:
        """Return the object of this name."""
        return self._by_uid.get(self._by_name.get(key, ""))

    def owned_by(self, uid: str) -> tuple[Entry[T], ...]:
        """Return the objects whose controller has this uid."""
        return tuple(self._by_owner.get(uid, {}).values())

    def put(self, raw: RawObject) -> tuple[Change, Entry[T]] | None:
        """Keep an object; return what changed, or None where it is no newer than what is kept."""
        metadata = raw["metadata"]
        uid, version = metadata["uid"], int(metadata["resourceVersion"])
        kept = self._by_uid.get(uid)
        if kept is not None and version <= kept.version:
            return None
        owner_uid, owner_name = _controller(metadata)
        entry = Entry(
            namespace=metadata.get("namespace", ""),
            name=metadata["name"],
            uid=uid,
            version=version,
            owner_uid=owner_uid,
            owner_name=owner_name,
            value=self._project(raw),
        )
        if kept is not None:
            self._forget(kept)
        self._by_uid[uid] = entry
        self._by_owner.setdefault(owner_uid, {})[uid] = entry
        self._by_name[Key(entry.namespace, entry.name)] = uid
        return (Change.ADDED if kept is None else Change.MODIFIED), entry

    def drop(self, uid: str) -> Entry[T] | None:
        """Forget an object and return it, or None where it was not known."""
        entry = self._by_uid.get(uid)
        if entry is not None:
            self._forget(entry)
        return entry

    def missing_from(
        self, seen: Iterable[str], *, version: int, namespace: str | None
    ) -> tuple[Entry[T], ...]:
        """Return what a complete list of `version` does not hold although it is older than the list."""
        known = set(seen)
        return tuple(
            entry
            for entry in self._by_uid.values()
            if entry.uid not in known
            and entry.version <= version
            and namespace in (None, entry.namespace)
        )

    def _forget(self, entry: Entry[T]) -> None:
        del self._by_uid[entry.uid]
        siblings = self._by_owner[entry.owner_uid]
        del siblings[entry.uid]
        if not siblings:
            del self._by_owner[entry.owner_uid]
        key = Key(entry.namespace, entry.name)
        # NB: a new object of this name may have come before the old one's deletion.
        if self._by_name.get(key) == entry.uid:
            del self._by_name[key]


def _controller(metadata: RawObject) -> tuple[str, str]:
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            return owner["uid"], owner["name"]
    return "", ""
