"""Which resource a command begins with: the saved one of the same spec, or a new one.

Stands for what an API server does with an apply: identity and generation. Pure.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from finetune_api import wire
from finetune_operator.decide.status.build_status import parse_status
from finetune_operator.decide.values.conditions import is_terminal

DEFAULT_NAMESPACE = "default"
UID_SPACE = uuid.UUID("6f0c2a4e-5a0d-4f0e-9d0c-3f7d0c1e2b11")
"""Any constant: the same folder and name always give the same uid."""


def build_metadata(written: Mapping[str, Any], *, place: str) -> dict[str, Any]:
    """Return the metadata of a new resource; `place` is where it is kept."""
    name = str(written.get("name", ""))
    namespace = str(written.get("namespace") or DEFAULT_NAMESPACE)
    labels = {key: dict(written[key]) for key in ("labels", "annotations") if written.get(key)}
    return {
        "name": name,
        "namespace": namespace,
        "uid": str(uuid.uuid5(UID_SPACE, f"{place}/{namespace}/{name}")),
        "generation": 1,
        **labels,
    }


def begin_resource(
    saved: Mapping[str, Any] | None, *, metadata: Mapping[str, Any], spec: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the resource that a command begins with.

    A changed spec raises the generation, and `updatePolicy: Recreate` makes a run of it. A run that
    has ended begins again: what it published is found by the trainer, and what it measured is kept.
    """
    envelope = {"apiVersion": wire.API_VERSION, "kind": wire.KIND}
    if saved is None or not isinstance(saved.get("metadata"), Mapping):
        return {**envelope, "metadata": dict(metadata), "spec": dict(spec), "status": {}}
    generation = int(saved["metadata"].get("generation", 1))
    status = dict(saved.get("status") or {})
    if saved.get("spec") != spec:
        generation += 1
    elif is_terminal(parse_status(status).conditions):
        status = {key: status[key] for key in ("measurement",) if key in status}
    return {
        **envelope,
        "metadata": {**metadata, "generation": generation},
        "spec": dict(spec),
        "status": status,
    }
