"""The form of an admission rule: one condition, one message, two evaluations.

The tables of rules are built of these (`rules_inputs`, `rules_training`, `not_supported`, `frozen`);
`validation` checks them in Python and `crd` writes them into the CustomResourceDefinition. Values
only; nothing here evaluates anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ValidationRule:
    """One condition on one place of the resource."""

    path: str
    """Where it stands, `spec.languages[].dataset`; it holds for every item of a list."""
    cel: str
    """What must hold, as the API server evaluates it; `self` is the value at `path`."""
    message: str
    """What is wrong and what to do; the API server puts path and value before it."""
    check: Callable[[Any], bool]
    """What must hold, in Python, of the value at `path`; an absent value is not asked."""


@dataclass(frozen=True)
class Transition:
    """One condition between an object and its update, for the API server alone."""

    field: str
    """The field it is about, as a name below `spec`."""
    cel: str
    """What must hold; `self` and `oldSelf` are the whole objects."""
    message: str
    """What is wrong and what to do."""
