"""Checks a spec offline by the very rules that the API server enforces, with the same messages.

Each rule is a CEL expression beside the same check in Python (`rule.Rule`); `crd` writes the first,
this module asks the second, and a test runs both over the same files. Shapes and bounds stand in
`resource`. Nothing here reads a cluster or a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from finetune_api.not_supported import NOT_SUPPORTED_YET
from finetune_api.resource import LanguageFinetuneSpec
from finetune_api.rules_inputs import INPUT_RULES
from finetune_api.rules_training import TRAINING_RULES
from finetune_api.validation_rule import ValidationRule

RULES: Final[tuple[ValidationRule, ...]] = (*INPUT_RULES, *TRAINING_RULES)
"""What no version will accept."""
ALL_RULES: Final[tuple[ValidationRule, ...]] = (*RULES, *NOT_SUPPORTED_YET)
"""What this version does not accept."""


@dataclass(frozen=True)
class Violation:
    """One rule that a resource breaks."""

    path: str
    """The place, `spec.languages[0].dataset`."""
    message: str
    """What is wrong and what to do."""


def check_spec(
    spec: LanguageFinetuneSpec, *, rules: tuple[ValidationRule, ...] = ALL_RULES
) -> list[Violation]:
    """Return every one of `rules` that `spec` breaks, in their order; an empty list is a pass."""
    places = {path: _places(spec, path) for path in {rule.path for rule in rules}}
    return [
        Violation(path=path, message=rule.message)
        for rule in rules
        for path, value in places[rule.path]
        if not rule.check(value)
    ]


def _places(spec: LanguageFinetuneSpec, path: str) -> list[tuple[str, Any]]:
    """Return the places of `path` that exist in `spec`, each with its value."""
    found: list[tuple[str, Any]] = [("spec", spec)]
    for step in path.split(".")[1:]:
        found = [place for at, value in found for place in _children(value, at=at, step=step)]
    return found


def _children(value: BaseModel, *, at: str, step: str) -> list[tuple[str, Any]]:
    """Return the children of `value` that `step` names; `name[]` names the items of a list."""
    name = step.removesuffix("[]")
    child = getattr(value, _attributes(type(value))[name])
    if child is None:
        return []
    if step.endswith("[]"):
        return [(f"{at}.{name}[{index}]", item) for index, item in enumerate(child)]
    return [(f"{at}.{name}", child)]


@cache
def _attributes(part: type[BaseModel]) -> Mapping[str, str]:
    """Return the attribute behind each name that a field has in YAML; a class never changes."""
    return {field.alias or name: name for name, field in part.model_fields.items()}
