"""What each policy decides: a rule and a value for every parameter, the overrides applied.

`resolve` asks for both verdicts; the chosen one becomes decisions, the other one their alternatives.
Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import JsonValue

from finetune_api.resource import LanguageFinetuneSpec, Policy
from finetune_resolver.policies import defaults as rules_default
from finetune_resolver.policies import evidence, guide
from finetune_resolver.policies.facts import Facts
from finetune_resolver.policies.overrides import Overrides
from finetune_resolver.policies.rule import EvidenceRule, TraitRule, match_evidence, match_rules
from finetune_resolver.traits.trait import Axes

AnyRule = TraitRule | EvidenceRule

STEPS_INSTEAD = TraitRule(
    id="D-WN",
    parameter="warmup_ratio",
    value=0.0,
    message="Not in the guide: parameters.warmupSteps is set and decides the warm-up.",
)

AXES_REMEMBERED = 1024
"""Combinations of traits whose rules are remembered; there are 78,732 in all."""

IN_ORDER: Mapping[str, Any] = {name: None for name in guide.GROUPS if name != guide.TRAINER_ALPHA}
"""The guide's parameters in the guide's order, in which they are shown whichever rule decides them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """One policy's rule and value of every parameter, in the order they are shown."""

    policy: Policy
    rules: Mapping[str, AnyRule]
    values: Mapping[str, JsonValue]
    """Overridden ones hold the override."""


def decide_defaults(spec: LanguageFinetuneSpec, *, overrides: Overrides) -> PolicyResult:
    """Return what the guide is silent on; both policies share it.

    Args:
        spec: the spec of the resource.
        overrides: what the user set, by the guide's name.
    """
    rules = rules_default.BY_STAGE[spec.stage]
    if "warmup_steps" in overrides:
        rules = rules | {"warmup_ratio": STEPS_INSTEAD}
    values = decide_values(rules, overrides=overrides)
    return PolicyResult(policy=spec.policy, rules=rules, values=values)


def decide_values(rules: Mapping[str, TraitRule], *, overrides: Overrides) -> dict[str, JsonValue]:
    """Return each parameter's value: the override, else the rule's.

    Args:
        rules: the rule that decides each parameter.
        overrides: what the user set, by the guide's name.
    """
    values: dict[str, JsonValue] = {}
    for name, rule in rules.items():
        values[name] = overrides[name][1] if name in overrides else rule.decide(values)
    return values


def decide_by_guide(axes: Axes, *, defaults: PolicyResult, overrides: Overrides) -> PolicyResult:
    """Return what the guide decides for these traits.

    Args:
        axes: the values of the traits that the guide's table reads.
        defaults: what both policies share.
        overrides: what the user set, by the guide's name.
    """
    rules = _match_guide_rules(axes)
    values = decide_values(rules, overrides=overrides)
    return PolicyResult(
        policy=Policy.GUIDE,
        rules={**rules, **defaults.rules},
        values={**values, **defaults.values},
    )


# Traits are classes: few of their combinations are in use, and resources share them.
@lru_cache(maxsize=AXES_REMEMBERED)
def _match_guide_rules(axes: Axes) -> Mapping[str, TraitRule]:
    return match_rules(axes, groups=guide.GROUPS)


def decide_by_evidence(
    facts: Facts, *, defaults: PolicyResult, overrides: Overrides
) -> PolicyResult:
    """Return what measurements and published practice decide for these facts.

    Args:
        facts: what policy Evidence looks at.
        defaults: what both policies share.
        overrides: what the user set, by the guide's name.
    """
    rules: dict[str, AnyRule] = {**IN_ORDER, **evidence.BORROWED}
    values: dict[str, JsonValue] = {**IN_ORDER, **defaults.values}
    values |= decide_values(evidence.BORROWED, overrides=overrides)
    for name, group in evidence.GROUPS.items():
        rule = rules[name] = match_evidence(group, facts=facts, values=values)
        values[name] = overrides[name][1] if name in overrides else rule.decide(facts, values)
    return PolicyResult(policy=Policy.EVIDENCE, rules={**rules, **defaults.rules}, values=values)
