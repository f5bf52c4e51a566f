"""The object by which a status is applied."""

from collections.abc import Mapping
from typing import Any

from finetune_api import wire
from finetune_operator.raw_object import RawObject


def build_status_patch(body: RawObject, status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is applied: identity with uid, so that a successor of the same name is spared."""
    metadata = body["metadata"]
    return {
        "apiVersion": wire.API_VERSION,
        "kind": wire.KIND,
        "metadata": {key: metadata[key] for key in ("namespace", "name", "uid")},
        "status": dict(status),
    }
