"""The shape of a rule, and how the first that matches is found.

A table of rules is data: within a parameter the first match wins, in the order printed, and the last
row of every parameter matches always. `rules_guide` and `rules_default` hold the tables.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from finetune_resolver.traits import Axes


def always(_: Axes) -> bool:
    """Match whatever the traits are: the last row of a parameter."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
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
        # A list of the table must not be shared: whoever changes a decision would change the rule.
        return list(value) if isinstance(value, list) else value


def group_rules(rules: Iterable[Rule]) -> dict[str, tuple[Rule, ...]]:
    """Return the rules of each parameter, both in the order of the table."""
    groups: dict[str, tuple[Rule, ...]] = {}
    for rule in rules:
        groups[rule.parameter] = (*groups.get(rule.parameter, ()), rule)
    return groups


def match_rules(axes: Axes, *, groups: Mapping[str, tuple[Rule, ...]]) -> dict[str, Rule]:
    """Return the rule that decides each parameter: the first that matches."""
    return {parameter: _first_match(rules, axes=axes) for parameter, rules in groups.items()}


def _first_match(rules: tuple[Rule, ...], *, axes: Axes) -> Rule:
    *conditional, last = rules
    for rule in conditional:
        if rule.when(axes):
            return rule
    # The last row matches always; a test asks it of every table.
    return last
