"""Turns a pydantic model into the structural schema of a CustomResourceDefinition.

`crd` calls it for spec and status. What Kubernetes asks beyond JSON Schema: no `$ref`, no unions (an
optional field is one that may be absent), no `additionalProperties` beside `properties`, exclusive
bounds as a flag, and list and map types for server-side apply. Pure; it knows no field by name but
those that `ATOMIC_MAPS` lists.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT: Final = (
    "type",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "minimum",
    "maximum",
    "required",
)
ATOMIC_MAPS: Final = ("secretRef", "nodeSelector")
"""Objects that one applier owns whole: half of a reference or a selector has no meaning."""


def build_schema(model: type[BaseModel], *, mode: Literal["validation", "serialization"]) -> Schema:
    """Return the structural schema of `model`: as it is written, or as our code serializes it."""
    raw = model.model_json_schema(by_alias=True, mode=mode)
    return _structural(raw, shared=raw.get("$defs", {}))


def _structural(node: Schema, *, shared: Mapping[str, Schema]) -> Schema:
    node = _without_null(_inlined(node, shared=shared), shared=shared)
    kept: Schema = {"description": text} if (text := _description(node)) else {}
    kept |= {key: node[key] for key in _KEPT if key in node}
    if node.get("type") == "integer":
        kept["format"] = "int64"
    kept |= _exclusive(node)
    if "properties" in node:
        kept["properties"] = {
            name: _property(name, node=child, shared=shared)
            for name, child in node["properties"].items()
        }
    elif node.get("type") == "object":
        kept["additionalProperties"] = _structural(node["additionalProperties"], shared=shared)
    if "items" in node:
        kept["items"] = _structural(node["items"], shared=shared)
        kept["x-kubernetes-list-type"] = "atomic"
    return kept


def _property(name: str, *, node: Schema, shared: Mapping[str, Schema]) -> Schema:
    schema = _structural(node, shared=shared)
    if name in ATOMIC_MAPS:
        schema["x-kubernetes-map-type"] = "atomic"
    return schema


def _inlined(node: Schema, *, shared: Mapping[str, Schema]) -> Schema:
    """Return the node with its `$ref` replaced; what stands beside the reference wins."""
    if "$ref" not in node:
        return node
    beside = {key: value for key, value in node.items() if key != "$ref"}
    return {**shared[node["$ref"].rpartition("/")[2]], **beside}


def _without_null(node: Schema, *, shared: Mapping[str, Schema]) -> Schema:
    """Return the one member of an optional's union that is not null."""
    if "anyOf" not in node:
        return node
    members = [member for member in node["anyOf"] if member.get("type") != "null"]
    if len(members) != 1:
        raise ValueError(f"a union of {len(members)} types is no structural schema: {node}")
    beside = {key: value for key, value in node.items() if key != "anyOf"}
    return {**_inlined(members[0], shared=shared), **beside}


def _description(node: Schema) -> str:
    """Return the text of `kubectl explain`, with the default in it.

    The schema has no defaults for spec: filled in at admission they would stand inside lists, where
    GitOps tools compare whole items and report a drift that no one made.
    """
    text: str = " ".join(node.get("description", "").split())
    default = node.get("default")
    if default is None or default == "":
        return text
    shown = str(default).lower() if isinstance(default, bool) else default
    return f"{text} Default: {shown}."


def _exclusive(node: Schema) -> Schema:
    """Return exclusive bounds in OpenAPI 3.0's form, a bound and a flag."""
    bounds: Schema = {}
    if "exclusiveMinimum" in node:
        bounds |= {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
    if "exclusiveMaximum" in node:
        bounds |= {"maximum": node["exclusiveMaximum"], "exclusiveMaximum": True}
    return bounds
