"""A Kubernetes object as JSON, before it is parsed into a model."""

from collections.abc import Mapping
from typing import Any

RawObject = Mapping[str, Any]
"""An object as the API server returned it; it is not changed."""

MutableRawObject = dict[str, Any]
"""An object that its owner changes and writes back."""
