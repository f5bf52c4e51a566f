"""A Kubernetes object as the API server sends it: JSON, not yet read."""

from collections.abc import Mapping
from typing import Any

RawObject = Mapping[str, Any]
