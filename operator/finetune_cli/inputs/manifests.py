"""YAML as kubectl reads it: the same scalars, the same refusals, and only our kind picked out.

PyYAML and kubectl's Go library differ where it hurts: PyYAML makes `2e-4` a text, `12:30` a number
and `2026-01-01` a date. The loader here resolves plain scalars by the Go library's rules (go.yaml.in/
yaml/v2, `resolve.go`), so that the CLI sees what the API server would get.
"""

import math
import re
import sys
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_api import wire
from finetune_cli.errors import ManifestError

STDIN = "-"
LARGEST_BYTES = 3 * 1024 * 1024
"""Twice what the API server accepts in one request by default; more is no resource."""

LONGEST_SHOWN = 253
"""Characters shown of a name or kind."""
LONGEST_NUMBER = 30
"""Characters shown of what should have been a number."""
SURROGATE = re.compile("[\ud800-\udfff]")

GO_EXPONENT_FROM = 1e21
"""Floats that Go's JSON writes with an exponent; below it a whole number is written as one."""

NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
BOOL = re.compile(
    r"^(?:y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF)$"
)
TRUE_WORDS = frozenset({"y", "yes", "true", "on"})
INT = re.compile(r"^[-+]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|0[0-7_]*|[1-9][0-9_]*)$")
FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9_]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
SCALARS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("tag:yaml.org,2002:null", NULL, "~nN"),
    ("tag:yaml.org,2002:bool", BOOL, "yYnNtTfFoO"),
    ("tag:yaml.org,2002:int", INT, "-+0123456789"),
    ("tag:yaml.org,2002:float", FLOAT, "-+.0123456789"),
    ("tag:yaml.org,2002:merge", re.compile(r"^<<$"), "<"),
)
"""Tag, shape and first letters of each plain scalar that is no text; the first match wins."""


@dataclass(frozen=True)
class ResourceFile:
    """One LanguageFinetune as it was written."""

    source: str
    """File it came from."""
    name: str
    """namespace/name, as far as the file tells."""
    body: dict[str, Any]


class KubectlLoader(yaml.SafeLoader):
    """A safe loader with kubectl's scalars that refuses doubled keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 -- PyYAML's own name and type

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 -- PyYAML's signature
        """Return the mapping, after checking that no key stands twice."""
        self.flatten_mapping(node)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _yaml_problem(key, "a key is a list or a mapping, and must be text")
            if key.value in seen:
                raise _yaml_problem(key, f'the key "{key.value}" stands twice')
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _yaml_problem(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _construct_text(_: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    text = str(node.value)
    if SURROGATE.search(text):
        raise _yaml_problem(node, "the text holds half of a character (\\ud800 to \\udfff)")
    return text


def _construct_bool(_: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    return node.value.lower() in TRUE_WORDS


def _construct_int(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    try:
        return _whole(node)
    except ValueError as error:
        raise _not_a_number(node) from error


def _not_a_number(node: yaml.ScalarNode) -> yaml.constructor.ConstructorError:
    shown = node.value if len(node.value) <= LONGEST_NUMBER else f"{node.value[:LONGEST_NUMBER]}…"
    return _yaml_problem(node, f"{shown} cannot be read as a number")


def _whole(node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    digits = text.lstrip("+-")
    # A leading zero alone is octal, which Python writes 0o.
    if len(digits) > 1 and digits.isdigit() and digits.startswith("0"):
        return int(text, 8)
    return int(text, 0)


def _construct_float(_: yaml.SafeLoader, node: yaml.ScalarNode) -> float | int | str:
    text = node.value.replace("_", "").lower()
    try:
        number = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError as error:
        raise _not_a_number(node) from error
    if math.isinf(number) and "inf" not in node.value.lower():
        # Too large for a float: Go keeps the text.
        return str(node.value)
    # kubectl sends JSON, where 8.0 is written 8 and fits a whole-number field.
    return int(number) if number.is_integer() and abs(number) < GO_EXPONENT_FROM else number


for _tag, _shape, _letters in SCALARS:
    _first = [*_letters, ""] if _tag.endswith("null") else list(_letters)
    KubectlLoader.add_implicit_resolver(_tag, _shape, _first)
KubectlLoader.add_constructor("tag:yaml.org,2002:str", _construct_text)
KubectlLoader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
KubectlLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
KubectlLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def load_manifests(path: str) -> list[ResourceFile]:
    """Read a file, or stdin for `-`, and return every LanguageFinetune in it.

    Raises:
        ManifestError: the file cannot be read, is no YAML, or holds no LanguageFinetune.
    """
    source = "stdin" if path == STDIN else path
    text = _read(path, source=source)
    try:
        documents = list(yaml.load_all(text, Loader=KubectlLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"{source} is not valid YAML: {_where(error)}; correct it.") from error
    objects = [item for document in documents for item in _unpack(document)]
    ours = [item for item in objects if item.get("kind") == wire.KIND]
    if not ours:
        raise ManifestError(_nothing_found(source, objects=objects))
    return [ResourceFile(source, _name(item), item) for item in ours]


def _read(path: str, *, source: str) -> str:
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(LARGEST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise ManifestError(
                f"{source} has more than {LARGEST_BYTES:,} bytes, which no resource has; pass the "
                "resource and not its data."
            )
        return data.decode("utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ManifestError(f"{source} cannot be read: {reason}; check the path.") from error
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{source} is not UTF-8 at byte {error.start}; save it as UTF-8 and try again."
        ) from error


def _unpack(document: Any) -> list[dict[str, Any]]:
    """Return the objects of one YAML document; a List holds several."""
    if not isinstance(document, dict):
        return []
    items = document.get("items")
    if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
        return [item for item in items if isinstance(item, dict)]
    return [document]


def _where(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error).replace("\n", " ") or type(error).__name__


def _nothing_found(source: str, *, objects: list[dict[str, Any]]) -> str:
    kinds = sorted({_kind(item) for item in objects})
    found = f"found {', '.join(kinds)}" if kinds else "there is no object in it"
    return (
        f"{source} holds no {wire.KIND}: {found}; expected a document with apiVersion "
        f"{wire.API_VERSION} and kind {wire.KIND}."
    )


def _kind(body: dict[str, Any]) -> str:
    kind = body.get("kind")
    return kind[:LONGEST_SHOWN] if isinstance(kind, str) else "an object without kind"


def _name(body: dict[str, Any]) -> str:
    """Return what the file calls the object; what is no text, or too long for a name, is left out."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return "without a name"
    name = metadata.get("name") or metadata.get("generateName")
    namespace = metadata.get("namespace")
    if isinstance(name, dict | list | None):
        return "without a name"
    shown = str(name)[:LONGEST_SHOWN]
    return f"{namespace[:LONGEST_SHOWN]}/{shown}" if isinstance(namespace, str) else shown
