"""Is a manifest what the API server and the operator would take? Shape, then rules, then languages.

All problems of one stage are named in one message; the next stage needs the one before it. Pure.
"""

import json
import re
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from finetune_api import wire
from finetune_api.not_supported import NOT_SUPPORTED_YET
from finetune_api.resource import LanguageFinetuneSpec
from finetune_api.validation import ALL_RULES, RULES, check_spec
from finetune_api.validation_rule import ValidationRule
from finetune_cli.errors import InvalidError
from finetune_cli.inputs.field_names import remedy_for
from finetune_cli.inputs.manifests import LARGEST_BYTES, ResourceFile
from finetune_cli.inputs.wording import sentence, show, word_problem
from finetune_resolver import Advice, Measurements, Resolution, ResolverError, resolve
from finetune_resolver.resolution import Severity

NOT_YET = "not-supported-yet"
"""Id of the warning about a field whose behaviour comes later."""

TOP_LEVEL = ("apiVersion", "kind", "metadata", "spec", "status")
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LONGEST_NAME = 253
NO_JSON = (
    "it holds .inf, .nan, a key or value that is neither text, number nor boolean, an alias of "
    f"itself, or aliases that unfold to more than {LARGEST_BYTES:,} characters"
)


def resolve_manifest(manifest: ResourceFile) -> Resolution:
    """Return every parameter of a manifest.

    Raises:
        InvalidError: the manifest breaks the schema, a rule, or names no language.
    """
    return resolve_spec(manifest, spec=check_manifest(manifest, rules=ALL_RULES))


def explain_manifest(manifest: ResourceFile) -> Resolution:
    """Return every parameter of a manifest, also of one that asks for what comes later.

    What this version does not do yet stands among the warnings; `validate` and the API server
    refuse it.

    Raises:
        InvalidError: the manifest breaks the schema, a rule that stays, or names no language.
    """
    spec = check_manifest(manifest, rules=RULES)
    return with_later_warnings(resolve_spec(manifest, spec=spec), spec=spec)


def check_manifest(
    manifest: ResourceFile, *, rules: tuple[ValidationRule, ...] = RULES
) -> LanguageFinetuneSpec:
    """Return the typed spec of a manifest that keeps the rules.

    Raises:
        InvalidError: the manifest breaks the schema or a rule.
    """
    spec = parse_spec(manifest)
    problems = [f"{found.path}: {found.message}" for found in check_spec(spec, rules=rules)]
    if problems:
        raise invalid(manifest, problems)
    return spec


def resolve_spec(
    manifest: ResourceFile, *, spec: LanguageFinetuneSpec, measured: Measurements | None = None
) -> Resolution:
    """Return every parameter of a checked spec, which may differ from the manifest's.

    Raises:
        InvalidError: the resolver refuses it.
    """
    try:
        return resolve(spec, measured=measured)
    except ResolverError as error:
        raise invalid(manifest, [str(error)]) from error


def with_later_warnings(resolution: Resolution, *, spec: LanguageFinetuneSpec) -> Resolution:
    """Return the resolution with a warning for each field that this version does not do yet."""
    later = tuple(
        Advice(
            id=NOT_YET,
            parameter=found.path.removeprefix("spec."),
            severity=Severity.WARN,
            message=f"The API server refuses {found.path}: {found.message}",
        )
        for found in check_spec(spec, rules=NOT_SUPPORTED_YET)
    )
    return replace(resolution, warnings=(*later, *resolution.warnings))


def parse_spec(manifest: ResourceFile) -> LanguageFinetuneSpec:
    """Return the typed spec of a manifest.

    Raises:
        InvalidError: a field is unknown, missing, or has the wrong shape.
    """
    problems = [*_envelope_problems(manifest.body)]
    spec = manifest.body.get("spec")
    if not isinstance(spec, dict):
        reported = "is missing" if spec is None else f"is {show(spec)}"
        problems.append(f"spec {reported}, expected at least model, languages and output.")
        raise invalid(manifest, problems)
    try:
        # Through JSON and strictly, as the API server does it: no text becomes a number, and a
        # field is known by its one name.
        text = _json_text(spec)
        parsed = LanguageFinetuneSpec.model_validate_json(
            text, strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        problems += [word_problem(found) for found in error.errors(include_url=False)]
        raise invalid(manifest, problems) from error
    except (TypeError, ValueError) as error:
        problems.append(f"spec cannot be written as JSON: {NO_JSON}.")
        raise invalid(manifest, problems) from error
    if problems:
        raise invalid(manifest, problems)
    return parsed


def _json_text(spec: dict[str, Any]) -> str:
    """Return spec as JSON; unfolded step by step, since a few aliases of aliases would fill memory.

    Raises:
        ValueError: JSON cannot hold it, or it is too long.
        TypeError: a key is neither text nor number.
    """
    parts: list[str] = []
    size = 0
    for part in json.JSONEncoder(allow_nan=False).iterencode(spec):
        parts.append(part)
        size += len(part)
        if size > LARGEST_BYTES:
            raise ValueError("too long")
    return "".join(parts)


def _envelope_problems(body: dict[str, Any]) -> list[str]:
    """Return what is wrong outside spec."""
    problems = []
    for field in (key for key in body if key not in TOP_LEVEL):
        remedy = remedy_for(str(field), siblings=list(TOP_LEVEL), path=str(field))
        problems.append(sentence(f"{field} is not a field; {remedy}"))
    if body.get("apiVersion") != wire.API_VERSION:
        version = show(body.get("apiVersion"))
        problems.append(f"apiVersion is {version}, expected {wire.API_VERSION}; correct it.")
    metadata = body.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    generated = isinstance(metadata, dict) and metadata.get("generateName")
    if not generated and not _is_name(name):
        reported = "is missing" if name is None else f"is {show(name)}"
        problems.append(
            f"metadata.name {reported}, expected small letters, digits, hyphens and dots, at most "
            f"{LONGEST_NAME}."
        )
    return problems + (_metadata_problems(metadata) if isinstance(metadata, dict) else [])


def _metadata_problems(metadata: dict[str, Any]) -> list[str]:
    """Return what is wrong with the rest of metadata that people write."""
    problems = []
    namespace = metadata.get("namespace")
    if namespace is not None and not (_is_name(namespace) and "." not in namespace):
        problems.append(
            f"metadata.namespace is {show(namespace)}, expected small letters, digits and hyphens; "
            "correct it or leave it out."
        )
    for field in ("labels", "annotations"):
        pairs = metadata.get(field)
        if pairs is not None and not isinstance(pairs, dict):
            problems.append(f"metadata.{field} is {show(pairs)}, expected names with texts.")
            continue
        problems += [
            f"metadata.{field}.{name} is {show(value)}, expected text; quote it."
            for name, value in (pairs or {}).items()
            if not isinstance(value, str)
        ]
    return problems


def _is_name(name: Any) -> bool:
    fits = isinstance(name, str) and len(name) <= LONGEST_NAME
    return fits and NAME.fullmatch(name) is not None


def invalid(manifest: ResourceFile, problems: list[str]) -> InvalidError:
    """Return the error that tells each problem of a manifest in a line of its own."""
    whose = f"{manifest.source}: {wire.KIND} {manifest.name}"
    return InvalidError([f"{whose}: {problem}" for problem in problems])
