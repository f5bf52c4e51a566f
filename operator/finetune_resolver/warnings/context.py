"""What advisors look at: a resolution on its way, before its warnings are known. Values only."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from finetune_api.resource import Method, Policy
from finetune_resolver.memory.estimate import MemoryEstimate
from finetune_resolver.policies.facts import Facts
from finetune_resolver.resolution import Advice
from finetune_resolver.steps import Values
from finetune_resolver.traits.combine_languages import Members
from finetune_resolver.traits.trait import Axes


# A named tuple for the reason that `Trait` is one; always made with keywords.
class WarningContext(NamedTuple):
    """What the advisors look at."""

    members: Members
    axes: Axes
    values: Values
    overrides: frozenset[str]
    """Parameters that the user set."""
    world: int
    """Processes that train together."""
    policy: Policy
    facts: Facts
    method: Method
    memory: MemoryEstimate | None
    """Of one sequence; None where it cannot be estimated."""


Advisor = Callable[[WarningContext], Iterator[Advice]]
