"""From a resource and what was measured to every parameter with its reason.

In flow order: find the languages → resolve their traits → fold them → match the rules → apply the
overrides → state the reasons → advise. Pure and total: the same input gives the same resolution, and
every parameter has exactly one decision.
"""

import json
import re

from pydantic import JsonValue

from finetune_api.resource import (
    LanguageFinetuneSpec,
    Method,
    Mode,
    MultilingualStrategy,
    OutputFormat,
    Policy,
    TrainingStage,
    Traits,
)
from finetune_resolver import rules_default, rules_guide
from finetune_resolver.advice import Circumstances, advise
from finetune_resolver.catalogue import find
from finetune_resolver.errors import UnsupportedSpecError
from finetune_resolver.fold import Members, fold_traits
from finetune_resolver.measurement import Measurements
from finetune_resolver.notes import NOTES, build_message
from finetune_resolver.overrides import build_overrides
from finetune_resolver.resolution import (
    OVERRIDE,
    Alternative,
    Decision,
    DecisionSource,
    MethodChoice,
    PeftAdvice,
    Resolution,
    Superseded,
)
from finetune_resolver.rule import Rule, match_rules
from finetune_resolver.steps import Values, workers
from finetune_resolver.traits import (
    AXIS_NAMES,
    Known,
    TraitSet,
    build_axes,
    resolve_job_traits,
    resolve_language_traits,
    tokenizer_family,
)

Overrides = dict[str, tuple[str, JsonValue]]
"""The guide's name to (path below spec, value)."""

STEPS_INSTEAD = Rule(
    id="D-WN",
    parameter="warmup_ratio",
    value=0.0,
    message="Not in the guide: parameters.warmupSteps is set and decides the warm-up.",
)
TINY_MODEL = re.compile(r"(?<![a-z0-9])([0-9.]+)m(?![a-z])|(?<![0-9.])0\.[0-9]+b(?![a-z])")
"""A model's name that tells fewer than a billion parameters: SmolLM2-135M, Qwen2.5-0.5B."""
NO_TRAITS = Traits()


def resolve(spec: LanguageFinetuneSpec, *, measured: Measurements | None = None) -> Resolution:
    """Return every parameter of a resource with its reason.

    Raises:
        UnknownLanguageError: a tag is not a language.
        UnsupportedSpecError: the resource asks for behaviour that does not exist yet.
    """
    _refuse_unsupported(spec)
    measured = measured or Measurements()
    members = resolve_members(spec, measured=measured)
    traits = fold_traits(members) | resolve_job_traits(
        depth=spec.model.depth, memory=spec.resources.gpu_memory_class, measured=measured
    )
    axes = build_axes(traits)
    overrides = build_overrides(spec.parameters)
    rules = match_rules(axes, groups=rules_guide.GROUPS)
    rules |= rules_default.BY_STAGE[spec.stage]
    if "warmup_steps" in overrides:
        rules["warmup_ratio"] = STEPS_INSTEAD
    values = decide_values(rules, overrides=overrides)
    circumstances = Circumstances(
        members=members,
        axes=axes,
        values=values,
        overrides=frozenset(overrides),
        world=workers(spec.resources),
    )
    return Resolution(
        traits=tuple(traits[axis] for axis in AXIS_NAMES if axis in traits),
        axes=axes,
        decisions=build_decisions(
            rules, overrides=overrides, circumstances=circumstances, traits=traits
        ),
        warnings=advise(circumstances),
        method=decide_method(spec),
    )


def resolve_members(spec: LanguageFinetuneSpec, *, measured: Measurements) -> Members:
    """Return each language of the resource with what is known of it and its traits."""
    family = tokenizer_family(spec.model.uri)
    members: Members = []
    for index, language in enumerate(spec.languages):
        known = Known(
            declared=language.traits or NO_TRAITS,
            found=find(language.tag),
            measured=measured.language(index),
            stage=spec.stage,
            family=family,
        )
        members.append((known, resolve_language_traits(known)))
    return members


def decide_values(rules: dict[str, Rule], *, overrides: Overrides) -> dict[str, JsonValue]:
    """Return each parameter's value: the override, else the rule's."""
    values: dict[str, JsonValue] = {}
    for name, rule in rules.items():
        values[name] = overrides[name][1] if name in overrides else rule.decide(values)
    return values


def build_decisions(
    rules: dict[str, Rule],
    *,
    overrides: Overrides,
    circumstances: Circumstances,
    traits: TraitSet,
) -> tuple[Decision, ...]:
    """Return one decision for each parameter that reaches the trainer."""
    values, world = circumstances.values, circumstances.world
    superseded = _superseded(rules[rules_guide.TRAINER_ALPHA], values=values)
    decisions = []
    for name, rule in rules.items():
        if name == rules_guide.TRAINER_ALPHA:
            continue
        shown = superseded if name == "lora_alpha" else ()
        if name in overrides:
            path = overrides[name][0]
            decision = _override(rule, path=path, values=values, superseded=shown, world=world)
        elif rule.id in UNCONDITIONAL:
            decision = UNCONDITIONAL[rule.id]
        else:
            decision = _by_rule(rule, values=values, traits=traits, superseded=shown, world=world)
        decisions.append(decision)
    return tuple(decisions)


def _by_rule(
    rule: Rule,
    *,
    values: Values,
    traits: TraitSet,
    superseded: tuple[Superseded, ...],
    world: int,
) -> Decision:
    in_guide = rule.parameter in rules_guide.GROUPS
    name = rule.parameter
    return Decision(
        parameter=name,
        value=values[name],
        rule=rule.id,
        guide_ids=rule.guide_ids,
        source=DecisionSource.RULE if in_guide else DecisionSource.DEFAULT,
        because=tuple(traits[axis] for axis in rule.axes if axis in traits),
        message=build_message(rule.message, parameter=name, values=values, world=world),
        superseded=superseded,
    )


def _is_unconditional(rule: Rule) -> bool:
    """Whether a rule's decision is the same whatever the traits and the other values are."""
    looks = bool(rule.axes or rule.copies)
    return not looks and rule.parameter not in NOTES and not isinstance(rule.value, list)


# Half of the decisions look at nothing; made once, they halve the time of a resolution.
UNCONDITIONAL: dict[str, Decision] = {
    rule.id: _by_rule(rule, values={rule.parameter: rule.value}, traits={}, superseded=(), world=1)
    for rule in (*rules_guide.RULES, *rules_default.ALL_RULES, STEPS_INSTEAD)
    if _is_unconditional(rule)
}


def _override(
    rule: Rule, *, path: str, values: Values, superseded: tuple[Superseded, ...], world: int
) -> Decision:
    name = rule.parameter
    instead = rule.decide(values)
    whose = "the guide" if name in rules_guide.GROUPS else "the default"
    message = (
        f"Set to {json.dumps(values[name])} by spec.{path}; {whose} would say "
        f"{json.dumps(instead)} (rule {rule.id})."
    )
    return Decision(
        parameter=name,
        value=values[name],
        rule=OVERRIDE,
        source=DecisionSource.OVERRIDE,
        message=build_message(message, parameter=name, values=values, world=world),
        superseded=superseded,
        alternative=Alternative(policy=Policy.GUIDE, value=instead, rule=rule.id),
    )


def _superseded(rule: Rule, *, values: Values) -> tuple[Superseded, ...]:
    """Return the trainer's view of alpha, where it differs from what reaches the adapter (C2)."""
    if rule.value == values["lora_alpha"]:
        return ()
    message = f"{rule.message}; only PEFT's alpha reaches the adapter, since Unsloth trains through PEFT (G-PF-6)."
    return (Superseded(rule.value, rule.id, rule.guide_ids, message),)


def decide_method(spec: LanguageFinetuneSpec) -> MethodChoice:
    """Return what is trained, with the guide's advice on adapters beside it (C26)."""
    advice, guide_id, why = _peft_advice(spec)
    chosen = Method.LORA if spec.method is Method.AUTO else spec.method
    how = (
        "LoRA unless method says otherwise" if spec.method is Method.AUTO else "Set by spec.method"
    )
    return MethodChoice(chosen, advice, (guide_id,), f"{how}; {why} ({guide_id}).")


def _peft_advice(spec: LanguageFinetuneSpec) -> tuple[PeftAdvice, str, str]:
    if spec.stage is TrainingStage.CONTINUED_PRETRAINING:
        return (
            PeftAdvice.REQUIRED,
            "G-PR-4",
            "continued pretraining wants an adapter for efficiency",
        )
    if OutputFormat.MERGED_16BIT in spec.output.formats:
        return PeftAdvice.EITHER, "G-PR-5", "a model for production may be merged or trained whole"
    if spec.mode is Mode.PLAN:
        return PeftAdvice.RECOMMENDED, "G-PR-3", "a prototype saves time and cost with an adapter"
    if TINY_MODEL.search(spec.model.uri.lower().rsplit("/", maxsplit=1)[-1]):
        return PeftAdvice.OPTIONAL, "G-PR-2", "a model this small could be trained whole as well"
    return PeftAdvice.PREFERRED, "G-PR-1", "a full fine-tune of a large model costs too much memory"


def _refuse_unsupported(spec: LanguageFinetuneSpec) -> None:
    if spec.policy is Policy.EVIDENCE:
        raise UnsupportedSpecError(
            "spec.policy is Evidence, which is not supported yet: expected Guide; remove the field "
            "and apply again."
        )
    multilingual = spec.multilingual
    if multilingual is not None and multilingual.strategy is MultilingualStrategy.MERGE:
        raise UnsupportedSpecError(
            "spec.multilingual.strategy is Merge, which is not supported yet: expected Mixture; "
            "change the field, or apply one resource a language."
        )
