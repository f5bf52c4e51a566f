"""The shapes of a rule, and how the first that matches is found.

A table of rules is data: within a parameter the first match wins, in the order printed, and the last
row of every parameter matches always. `rules_guide` and `rules_default` hold tables of `Rule`, which
reads traits; `rules_evidence` one of `EvidenceRule`, which reads what was measured.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import JsonValue

from finetune_resolver.policies.facts import Facts
from finetune_resolver.steps import Values
from finetune_resolver.traits.trait import Axes


def always(_: Axes) -> bool:
    """Match whatever the traits are: the last row of a parameter."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitRule:
    """One row of the decision table."""

    id: str
    parameter: str
    """The guide's name."""
    when: Callable[[Axes], bool] = always
    value: JsonValue = None
    """What the rule decides; a JSON value."""
    copies: str = ""
    """Name of an earlier parameter whose decided value is taken instead of `value`."""
    guide_ids: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    """Fields of `Axes` that make the rule match, or that keep the rows above it from matching."""
    message: str
    """Why, in one sentence."""

    def decide(self, decided: Mapping[str, JsonValue]) -> JsonValue:
        """Return the rule's value, given the parameters decided before it."""
        value = decided[self.copies] if self.copies else self.value
        # A list of the table must not be shared: changing a decision would change the rule.
        return list(value) if isinstance(value, list) else value


def always_for_evidence(_: Facts, __: Values) -> bool:
    """Match whatever was measured: the last row of a parameter."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRule:
    """One row of the table of policy Evidence, which reads facts instead of traits."""

    id: str
    parameter: str
    """The guide's name."""
    when: Callable[[Facts, Values], bool] = always_for_evidence
    value: JsonValue = None
    compute: Callable[[Facts, Values], JsonValue] | None = None
    """Where set, decides instead of `value`."""
    computes: str = ""
    """What `compute` does, in words: the reference page has no numbers to show."""
    facts: tuple[str, ...] = ()
    """Fields of `Facts` that it looks at."""
    message: str
    """Why, in one sentence; `{facts.…}` is filled in with what was measured."""
    reference: str

    def decide(self, facts: Facts, values: Values) -> JsonValue:
        """Return the value, given the parameters decided before it.

        Args:
            facts: what policy Evidence looks at.
            values: the parameters decided so far, by the guide's name.
        """
        value = self.compute(facts, values) if self.compute else self.value
        # A list of the table must not be shared: changing a decision would change the rule.
        return list(value) if isinstance(value, list) else value


R = TypeVar("R", bound=TraitRule | EvidenceRule)


def group_rules(rules: Iterable[R]) -> dict[str, tuple[R, ...]]:
    """Return the rules of each parameter, both in the order of the table."""
    groups: dict[str, tuple[R, ...]] = {}
    for rule in rules:
        groups[rule.parameter] = (*groups.get(rule.parameter, ()), rule)
    return groups


def match_rules(axes: Axes, *, groups: Mapping[str, tuple[TraitRule, ...]]) -> dict[str, TraitRule]:
    """Return the rule that decides each parameter: the first that matches.

    Args:
        axes: the values of the traits that the guide's table reads.
        groups: the rules of each parameter, in the order of the table.
    """
    matched = {}
    for parameter, rules in groups.items():
        # The last row matches always and is not asked; a test looks at every table.
        matched[parameter] = rules[-1]
        for rule in rules:
            if rule.when is always:
                break
            if rule.when(axes):
                matched[parameter] = rule
                break
    return matched


def match_evidence(
    rules: tuple[EvidenceRule, ...], *, facts: Facts, values: Values
) -> EvidenceRule:
    """Return the first rule of a parameter that matches; the last one does always.

    Args:
        rules: the rules of one parameter, in the order of the table.
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    for rule in rules:
        if rule.when is always_for_evidence or rule.when(facts, values):
            return rule
    return rules[-1]
