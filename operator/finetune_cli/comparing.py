"""The same text under several base models: what differs, side by side.

Takes the plans of `preview` and picks what a person chooses a model by. Pure; it ranks nothing but
the number of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from finetune_cli.planning import Plan
from finetune_resolver.traits.resolve_traits import classify_density


@dataclass(frozen=True, slots=True)
class Candidate:
    """One base model and the plan with it."""

    name: str
    """Of its folder."""
    path: str
    """As the user named it."""
    plan: Plan | None = None
    """None where the resource cannot be planned with it."""
    problem: str = ""
    """Why not."""

    @property
    def tokens(self) -> int | None:
        """Tokens of all languages' text."""
        profile = self.plan.profile if self.plan else None
        return sum(text.tokens for text in profile.languages) if profile else None

    @property
    def densities(self) -> tuple[str, ...]:
        """Token density of each language's text, as it was measured."""
        profile = self.plan.profile if self.plan else None
        ratios = [text.characters_per_token for text in profile.languages] if profile else []
        return tuple(classify_density(ratio).value if ratio else "" for ratio in ratios)

    def value(self, parameter: str) -> JsonValue:
        """Return a parameter's value, or None where there is no plan."""
        return self.plan.resolution.value(parameter) if self.plan else None


@dataclass(frozen=True, slots=True)
class Difference:
    """A parameter that the models do not share."""

    name: str
    """The guide's."""
    values: tuple[JsonValue, ...]
    """Of each candidate, in order; None where it has no plan."""


def fewest_tokens(candidates: Sequence[Candidate]) -> int | None:
    """Return the tokens of the candidate that needs the fewest."""
    return min((each.tokens for each in candidates if each.tokens), default=None)


def find_differences(candidates: Sequence[Candidate]) -> tuple[Difference, ...]:
    """Return the parameters whose value is not the same with every model that can be planned."""
    planned = [each for each in candidates if each.plan]
    if not planned or planned[0].plan is None:
        return ()
    names = [decision.parameter for decision in planned[0].plan.resolution.decisions]
    return tuple(
        Difference(name, tuple(each.value(name) for each in candidates))
        for name in names
        if any(each.value(name) != planned[0].value(name) for each in planned)
    )
