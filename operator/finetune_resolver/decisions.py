"""From a verdict to decisions: each value with its rule, its reason and what the other policy says.

Between `verdict`, which finds values, and `resolve`, which puts the resolution together. Pure.
"""

import json

from pydantic import JsonValue

from finetune_api.resource import Policy
from finetune_resolver import rules_default, rules_guide
from finetune_resolver.facts import Facts
from finetune_resolver.notes import NOTES, build_message
from finetune_resolver.overrides import Overrides
from finetune_resolver.resolution import (
    OVERRIDE,
    Alternative,
    Decision,
    DecisionSource,
    Superseded,
)
from finetune_resolver.rule import EvidenceRule, Rule
from finetune_resolver.steps import Values
from finetune_resolver.trait import Trait, TraitSet
from finetune_resolver.verdict import STEPS_INSTEAD, AnyRule, Verdict


def build_decisions(
    verdict: Verdict, *, other: Verdict, overrides: Overrides, facts: Facts, traits: TraitSet
) -> tuple[Decision, ...]:
    """Return one decision for each parameter that reaches the trainer."""
    superseded = _superseded(verdict)
    known = facts.traits()
    decisions = []
    for name, rule in verdict.rules.items():
        if name == rules_guide.TRAINER_ALPHA:
            continue
        shown = superseded if name == "lora_alpha" else ()
        if name in overrides:
            path = overrides[name][0]
            decisions.append(
                _override(rule, path=path, verdict=verdict, facts=facts, superseded=shown)
            )
            continue
        alternative = None
        # Both policies share what the guide is silent on.
        if name in rules_guide.GROUPS:
            alternative = _alternative(name, values=verdict.values, other=other)
        if isinstance(rule, EvidenceRule):
            because = tuple(known[name] for name in rule.facts if name in known)
            decision = _by_evidence(
                rule, verdict=verdict, facts=facts, because=because, alternative=alternative
            )
        elif alternative is None and rule.id in UNCONDITIONAL:
            decision = UNCONDITIONAL[rule.id]
        else:
            decision = _by_rule(
                rule,
                values=verdict.values,
                traits=traits,
                superseded=shown,
                alternative=alternative,
                world=facts.world,
            )
        decisions.append(decision)
    return tuple(decisions)


def _by_rule(
    rule: Rule,
    *,
    values: Values,
    traits: TraitSet,
    superseded: tuple[Superseded, ...] = (),
    alternative: Alternative | None = None,
    world: int,
) -> Decision:
    name = rule.parameter
    in_guide = name in rules_guide.GROUPS
    return Decision(
        parameter=name,
        value=values[name],
        rule=rule.id,
        guide_ids=rule.guide_ids,
        source=DecisionSource.RULE if in_guide else DecisionSource.DEFAULT,
        because=tuple(traits[axis] for axis in rule.axes if axis in traits),
        message=build_message(rule.message, parameter=name, values=values, world=world),
        superseded=superseded,
        alternative=alternative,
    )


def _by_evidence(
    rule: EvidenceRule,
    *,
    verdict: Verdict,
    facts: Facts,
    because: tuple[Trait, ...],
    alternative: Alternative | None,
) -> Decision:
    name, values = rule.parameter, verdict.values
    message = rule.message.format(facts=facts) if "{" in rule.message else rule.message
    return Decision(
        parameter=name,
        value=values[name],
        rule=rule.id,
        source=DecisionSource.MEASURED if because else DecisionSource.RULE,
        because=because,
        message=build_message(message, parameter=name, values=values, world=facts.world),
        alternative=alternative,
        reference=rule.reference,
    )


def _is_unconditional(rule: Rule) -> bool:
    """Whether a rule's decision is the same whatever the traits and the other values are."""
    looks = bool(rule.axes or rule.copies)
    return not looks and rule.parameter not in NOTES and not isinstance(rule.value, list)


# Half of the decisions look at nothing; made once, they halve the time of a resolution.
UNCONDITIONAL: dict[str, Decision] = {
    rule.id: _by_rule(rule, values={rule.parameter: rule.value}, traits={}, world=1)
    for rule in (*rules_guide.RULES, *rules_default.ALL_RULES, STEPS_INSTEAD)
    if _is_unconditional(rule)
}


def _override(
    rule: AnyRule,
    *,
    path: str,
    verdict: Verdict,
    facts: Facts,
    superseded: tuple[Superseded, ...],
) -> Decision:
    name, values = rule.parameter, verdict.values
    instead = _decide(rule, facts=facts, values=values)
    message = (
        f"Set to {json.dumps(values[name])} by spec.{path}; {_whose(rule, verdict=verdict)} would say "
        f"{json.dumps(instead)} (rule {rule.id})."
    )
    return Decision(
        parameter=name,
        value=values[name],
        rule=OVERRIDE,
        source=DecisionSource.OVERRIDE,
        message=build_message(message, parameter=name, values=values, world=facts.world),
        superseded=superseded,
        alternative=Alternative(verdict.policy, instead, rule.id, reference_of(rule)),
    )


def _whose(rule: AnyRule, *, verdict: Verdict) -> str:
    if rule.parameter not in rules_guide.GROUPS:
        return "the default"
    return "the guide" if verdict.policy is Policy.GUIDE else "the evidence"


def _decide(rule: AnyRule, *, facts: Facts, values: Values) -> JsonValue:
    if isinstance(rule, EvidenceRule):
        return rule.decide(facts, values)
    return rule.decide(values)


def _alternative(name: str, *, values: Values, other: Verdict) -> Alternative | None:
    """Return the other policy's value where it differs."""
    theirs = other.values[name]
    if values[name] == theirs:
        return None
    rule = other.rules[name]
    return Alternative(other.policy, theirs, rule.id, reference_of(rule))


def reference_of(rule: AnyRule) -> str:
    """Return what a rule rests on: its literature, or the guide's items."""
    return rule.reference if isinstance(rule, EvidenceRule) else ", ".join(rule.guide_ids)


def _superseded(verdict: Verdict) -> tuple[Superseded, ...]:
    """Return the trainer's view of alpha, where it differs from what reaches the adapter (C2)."""
    rule = verdict.rules.get(rules_guide.TRAINER_ALPHA)
    if not isinstance(rule, Rule) or rule.value == verdict.values["lora_alpha"]:
        return ()
    message = f"{rule.message}; only PEFT's alpha reaches the adapter, since Unsloth trains through PEFT (G-PF-6)."
    return (Superseded(rule.value, rule.id, rule.guide_ids, message),)
