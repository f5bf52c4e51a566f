"""From a verdict to decisions: each value with its rule, its reason and what the other policy says.

Between `verdict`, which finds values, and `resolve`, which puts the resolution together. Pure.
"""

import json

from pydantic import JsonValue

from finetune_api.resource import Policy
from finetune_resolver.policies import defaults, evidence, guide
from finetune_resolver.policies.apply_policy import STEPS_INSTEAD, AnyRule, PolicyResult
from finetune_resolver.policies.facts import Facts
from finetune_resolver.policies.notes import NOTES, build_message
from finetune_resolver.policies.overrides import Overrides
from finetune_resolver.policies.rule import EvidenceRule, TraitRule
from finetune_resolver.resolution import (
    OVERRIDE,
    Alternative,
    Decision,
    DecisionSource,
    Superseded,
)
from finetune_resolver.steps import Values
from finetune_resolver.traits.trait import Trait, TraitSet


def build_decisions(
    result: PolicyResult,
    *,
    other: PolicyResult,
    overrides: Overrides,
    facts: Facts,
    traits: TraitSet,
) -> tuple[Decision, ...]:
    """Return one decision for each parameter that reaches the trainer.

    Args:
        result: what the policy in force decides.
        other: what the other policy would decide, shown as the alternative.
        overrides: what the user set, by the guide's name.
        facts: what policy Evidence looks at.
        traits: the resolved traits.
    """
    superseded = SUPERSEDED.get(_trainer_alpha(result), ())
    known = facts.traits() if result.policy is Policy.EVIDENCE else {}
    values, theirs = result.values, other.values
    decisions = []
    for name, rule in result.rules.items():
        if name == guide.TRAINER_ALPHA:
            continue
        shown = superseded if name == "lora_alpha" else ()
        if name in overrides:
            path = overrides[name][0]
            decisions.append(
                _override(rule, path=path, result=result, facts=facts, superseded=shown)
            )
            continue
        # Both policies share what the guide is silent on.
        alternative = None if values[name] == theirs[name] else _alternative(name, other=other)
        if alternative is None and rule.id in UNCONDITIONAL:
            decision = UNCONDITIONAL[rule.id]
        elif isinstance(rule, EvidenceRule):
            decision = _by_evidence(
                rule,
                value=values[name],
                message=_measured_message(rule, values=values, facts=facts),
                because=tuple([known[fact] for fact in rule.facts if fact in known]),
                alternative=alternative,
            )
        else:
            decision = _by_rule(
                rule,
                values=values,
                traits=traits,
                superseded=shown,
                alternative=alternative,
                world=facts.world,
            )
        decisions.append(decision)
    return tuple(decisions)


def _by_rule(
    rule: TraitRule,
    *,
    values: Values,
    traits: TraitSet,
    superseded: tuple[Superseded, ...] = (),
    alternative: Alternative | None = None,
    world: int,
) -> Decision:
    name, message = rule.parameter, rule.message
    in_guide = name in guide.GROUPS
    if name in NOTES:
        message = build_message(message, parameter=name, values=values, world=world)
    # NB: by position, here and below: keywords take half as long again as all the rest of it.
    return Decision(
        name,
        values[name],
        rule.id,
        DecisionSource.RULE if in_guide else DecisionSource.DEFAULT,
        message,
        rule.guide_ids,
        tuple([traits[axis] for axis in rule.axes if axis in traits]),
        superseded,
        alternative,
    )


def _by_evidence(
    rule: EvidenceRule,
    *,
    value: JsonValue,
    message: str,
    because: tuple[Trait, ...] = (),
    alternative: Alternative | None = None,
) -> Decision:
    return Decision(
        rule.parameter,
        value,
        rule.id,
        DecisionSource.MEASURED if because else DecisionSource.RULE,
        message,
        (),
        because,
        (),
        alternative,
        rule.reference,
    )


def _measured_message(rule: EvidenceRule, *, values: Values, facts: Facts) -> str:
    """Return a rule's message with what was measured filled in."""
    filled = rule.message.format(facts=facts) if "{" in rule.message else rule.message
    if rule.parameter not in NOTES:
        return filled
    return build_message(filled, parameter=rule.parameter, values=values, world=facts.world)


def _decides_always_the_same(rule: AnyRule) -> bool:
    computes = rule.compute if isinstance(rule, EvidenceRule) else rule.copies
    return not computes and not isinstance(rule.value, list)


def _is_unconditional(rule: AnyRule) -> bool:
    """Whether a rule's decision is the same whatever is known and the other values are."""
    looks = rule.facts if isinstance(rule, EvidenceRule) else rule.axes
    return not looks and rule.parameter not in NOTES and _decides_always_the_same(rule)


# Half of the decisions look at nothing; made once, they halve the time of a resolution.
UNCONDITIONAL: dict[str, Decision] = {
    rule.id: _by_rule(rule, values={rule.parameter: rule.value}, traits={}, world=1)
    for rule in (*guide.RULES, *defaults.ALL_RULES, STEPS_INSTEAD)
    if _is_unconditional(rule)
} | {
    rule.id: _by_evidence(rule, value=rule.value, message=rule.message)
    for rule in evidence.RULES
    if _is_unconditional(rule)
}


def _override(
    rule: AnyRule,
    *,
    path: str,
    result: PolicyResult,
    facts: Facts,
    superseded: tuple[Superseded, ...],
) -> Decision:
    name, values = rule.parameter, result.values
    instead = _decide(rule, facts=facts, values=values)
    message = (
        f"Set to {json.dumps(values[name])} by spec.{path}; {_name_source(rule, result=result)} would say "
        f"{json.dumps(instead)} (rule {rule.id})."
    )
    return Decision(
        parameter=name,
        value=values[name],
        rule=OVERRIDE,
        source=DecisionSource.OVERRIDE,
        message=build_message(message, parameter=name, values=values, world=facts.world),
        superseded=superseded,
        alternative=Alternative(
            policy=result.policy, value=instead, rule=rule.id, reference=REFERENCES[rule.id]
        ),
    )


def _name_source(rule: AnyRule, *, result: PolicyResult) -> str:
    if rule.parameter not in guide.GROUPS:
        return "the default"
    return "the guide" if result.policy is Policy.GUIDE else "the evidence"


def _decide(rule: AnyRule, *, facts: Facts, values: Values) -> JsonValue:
    if isinstance(rule, EvidenceRule):
        return rule.decide(facts, values)
    return rule.decide(values)


def _alternative(name: str, *, other: PolicyResult) -> Alternative:
    """Return the other policy's value; overridden parameters never ask."""
    rule = other.rules[name].id
    fixed = FIXED_ALTERNATIVES.get(rule)
    return fixed or Alternative(other.policy, other.values[name], rule, REFERENCES[rule])


def _reference(rule: AnyRule) -> str:
    """Return what a rule rests on: its literature, or the guide's items."""
    return rule.reference if isinstance(rule, EvidenceRule) else ", ".join(rule.guide_ids)


ALL_RULES: tuple[AnyRule, ...] = (
    *guide.RULES,
    *evidence.RULES,
    *defaults.ALL_RULES,
    STEPS_INSTEAD,
)
REFERENCES: dict[str, str] = {rule.id: _reference(rule) for rule in ALL_RULES}
"""Rule to what it rests on."""


# Made once for the reason that `UNCONDITIONAL` is.
FIXED_ALTERNATIVES: dict[str, Alternative] = {
    rule.id: Alternative(policy, rule.value, rule.id, REFERENCES[rule.id])
    for policy, rules in (
        (Policy.GUIDE, guide.RULES),
        (Policy.EVIDENCE, evidence.RULES),
    )
    for rule in rules
    if _decides_always_the_same(rule)
}
"""Rule to what it says beside the other policy's value, where that is the same every time."""


def _trainer_alpha(result: PolicyResult) -> str:
    """Return the rule of the trainer's alpha, where it differs from what reaches the adapter (C2)."""
    rule = result.rules.get(guide.TRAINER_ALPHA)
    differs = isinstance(rule, TraitRule) and rule.value != result.values["lora_alpha"]
    return rule.id if rule is not None and differs else ""


SUPERSEDED: dict[str, tuple[Superseded, ...]] = {
    rule.id: (
        Superseded(
            rule.value,
            rule.id,
            rule.guide_ids,
            f"{rule.message}; only PEFT's alpha reaches the adapter, since Unsloth trains through PEFT "
            "(G-PF-6).",
        ),
    )
    for rule in guide.GROUPS[guide.TRAINER_ALPHA]
}
"""The trainer's view of alpha, by its rule: shown beside PEFT's."""
