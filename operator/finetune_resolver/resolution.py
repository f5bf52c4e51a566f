"""What a resolution is: traits, decisions with their reasons, warnings, and the method.

Values only; `resolve` makes them, `build` turns them into the plan and into status.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from pydantic import JsonValue

from finetune_api.resource import Method, Policy
from finetune_resolver.memory.estimate import MemoryEstimate
from finetune_resolver.traits.trait import Axes, Trait

OVERRIDE = "OVERRIDE"
"""Rule id of a value that the user set."""


class DecisionSource(StrEnum):
    """What a value rests on."""

    OVERRIDE = "Override"
    RULE = "Rule"
    MEASURED = "Measured"
    DEFAULT = "Default"


@dataclass(frozen=True, slots=True)
class Superseded:
    """A value that another view of the guide gives and that does not reach the adapter."""

    value: JsonValue
    rule: str
    guide_ids: tuple[str, ...]
    message: str


# Named tuples for the reason that `Trait` is one; always made with keywords.
class Alternative(NamedTuple):
    """What the policy would decide without the override, or what the other policy decides."""

    policy: Policy
    value: JsonValue
    rule: str
    reference: str = ""
    """What it rests on."""


class Decision(NamedTuple):
    """One resolved parameter, and why it has this value."""

    parameter: str
    """The guide's name."""
    value: JsonValue
    rule: str
    """Id of the rule, or OVERRIDE."""
    source: DecisionSource
    message: str
    """One sentence, in the project's own words."""
    guide_ids: tuple[str, ...] = ()
    because: tuple[Trait, ...] = ()
    """Traits and facts that the rule looked at."""
    superseded: tuple[Superseded, ...] = ()
    alternative: Alternative | None = None
    reference: str = ""
    """Literature or measurement behind a rule of policy Evidence."""


class Severity(StrEnum):
    """Whether a person may want to act."""

    INFO = "info"
    WARN = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Something a person may want to know or act on."""

    id: str
    """Stable."""
    parameter: str
    """Parameter or trait it is about."""
    severity: Severity
    message: str
    reference: str = ""
    """What it rests on."""


class PeftAdvice(StrEnum):
    """How much the guide wants an adapter instead of full fine-tuning."""

    REQUIRED = "Required"
    PREFERRED = "Preferred"
    RECOMMENDED = "Recommended"
    OPTIONAL = "Optional"
    EITHER = "Either"


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """What is trained, and the guide's advice about it."""

    value: Method
    """Never Auto."""
    advice: PeftAdvice
    guide_ids: tuple[str, ...]
    message: str
    rule: str = "ME-0"
    """ME-0 LoRA by default, ME-1 by what fits the GPU, or OVERRIDE."""
    source: DecisionSource = DecisionSource.RULE


@dataclass(frozen=True)
class Resolution:
    """Everything decided for one resource."""

    traits: tuple[Trait, ...]
    """Every trait that has a value, in a fixed order."""
    axes: Axes
    decisions: tuple[Decision, ...]
    """One a parameter, in a fixed order: the guide's, then what it is silent on."""
    warnings: tuple[Advice, ...]
    method: MethodChoice
    policy: Policy = field(default=Policy.GUIDE)
    predicted_memory: MemoryEstimate | None = None
    """Least that a GPU must hold for one sequence; None without GPU or model shape."""
    total_steps: int | None = None
    """Optimizer steps; None where the examples were not counted."""

    @cached_property
    def _by_name(self) -> dict[str, Decision]:
        return {decision.parameter: decision for decision in self.decisions}

    def decision(self, name: str) -> Decision:
        """Return the decision about the parameter called `name`."""
        return self._by_name[name]

    def value(self, name: str) -> JsonValue:
        """Return the value of the parameter called `name`."""
        return self._by_name[name].value
