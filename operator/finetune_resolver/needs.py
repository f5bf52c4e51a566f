"""Whether the job's text and model have to be measured before its parameters are decided, and why.

The operator asks before it creates anything: no need, no Measure Job. A trait is a need where it is
left Auto, no declaration and no row of the catalogue tells it, a measurement can, and at least one
parameter that is trained with would follow (docs/decisions/0006-when-text-is-measured.md). Pure: it
tries the rules with every class that a measurement could find.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from pydantic import JsonValue

from finetune_api.resource import (
    Corpus,
    LanguageFinetuneSpec,
    Method,
    Mode,
    Morphology,
    Policy,
    TokenDensity,
)
from finetune_resolver.policies import evidence, guide
from finetune_resolver.policies.apply_policy import IN_ORDER, decide_values
from finetune_resolver.policies.facts import TEXT_FACTS
from finetune_resolver.policies.overrides import Overrides, build_overrides
from finetune_resolver.policies.rule import match_rules
from finetune_resolver.resolve import resolve_members, resolve_traits
from finetune_resolver.traits.combine_languages import Members
from finetune_resolver.traits.evidence import LanguageEvidence
from finetune_resolver.traits.measurement import Measurements
from finetune_resolver.traits.trait import (
    AXIS_NAMES,
    Axes,
    TraitSet,
    TraitSource,
    TraitValue,
    build_axes,
)

CLASSES: Mapping[str, tuple[TraitValue, ...]] = {
    "token_density": tuple(TokenDensity),
    "morphology": tuple(Morphology),
    "corpus": tuple(Corpus),
}
"""Axes that text can tell, and what it can tell. Code-switching is not among them: unset it is false,
and no Job is spent on that alone; a measurement made for another reason still decides it."""
ROWS = (TraitSource.DECLARED, TraitSource.GUIDE, TraitSource.EVIDENCE)
"""Sources that make a trait known. A script's default is a guess that a measurement replaces."""
SCRIPTS_WITHOUT_SPACES = frozenset(
    {"Hans", "Hant", "Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"}
)
"""Scripts whose words no space divides: no type-token ratio can be measured."""
MEASURED_BY_EVIDENCE = tuple(
    name
    for name in IN_ORDER
    if any(TEXT_FACTS.intersection(rule.facts) for rule in evidence.GROUPS.get(name, ()))
)
"""Parameters that policy Evidence takes from the text's lengths and counts, and from no trait."""
WHY: Mapping[str, str] = {
    "token_density": "only characters a token under this model's tokenizer can tell",
    "morphology": "no row of the catalogue tells it, and the text's own type-token ratio can",
    "corpus": "how much text this job has is known only once it is counted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing that has to be measured."""

    name: str
    """Trait or field of spec as the resource spells it, such as corpus, policy or mode."""
    tag: str = ""
    """Language whose text it is; empty where it is the job's."""
    why: str
    """One sentence."""


def measurement_needs(spec: LanguageFinetuneSpec) -> tuple[Need, ...]:
    """Return why a Measure Job has to run before the resource is resolved; nothing: it need not.

    Once it has run, whatever it found decides: `resolve(spec, measured=measurements_of(...))`, without
    asking this again.

    Raises:
        UnknownLanguageError: a tag is not a language.
        UnsupportedSpecError: the resource asks for behaviour that does not exist yet.
    """
    overrides = build_overrides(spec.parameters, shape=None)
    return (
        *_mode_needs(spec),
        *_policy_needs(spec, overrides=overrides),
        *_memory_needs(spec),
        *_trait_needs(spec, overrides=overrides),
    )


def _mode_needs(spec: LanguageFinetuneSpec) -> Iterator[Need]:
    if spec.mode is Mode.PLAN:
        yield Need(
            name="mode", why="mode is Plan, which always measures the text that it tells of."
        )


def _policy_needs(spec: LanguageFinetuneSpec, *, overrides: Overrides) -> Iterator[Need]:
    left = [name for name in MEASURED_BY_EVIDENCE if name not in overrides]
    if spec.policy is Policy.EVIDENCE and left:
        yield Need(
            name="policy",
            why=f"policy is Evidence, which decides {_list(left)} from the text's lengths and counts.",
        )


def _memory_needs(spec: LanguageFinetuneSpec) -> Iterator[Need]:
    resources = spec.resources
    declared = resources.gpu_memory_class is not None and spec.method is not Method.AUTO
    if resources.gpus and resources.gpu_memory is not None and not declared:
        yield Need(
            name="gpuMemory",
            why=f"resources.gpuMemory is {resources.gpu_memory}, and what fits it is computed from the "
            "base model's config.json.",
        )


def _trait_needs(spec: LanguageFinetuneSpec, *, overrides: Overrides) -> Iterator[Need]:
    if spec.policy is Policy.EVIDENCE:
        return
    nothing = Measurements()
    members = resolve_members(spec, measured=nothing)
    unknown = {axis: tags for axis in CLASSES if (tags := _unknown_in(members, axis=axis))}
    axes = build_axes(resolve_traits(spec, measured=nothing, members=members))
    followers = _followers(axes, unknown=tuple(unknown), overrides=overrides)
    for axis, tags in unknown.items():
        for tag in tags if followers[axis] else ():
            yield Need(
                name=AXIS_NAMES[axis],
                tag=tag,
                why=f"{AXIS_NAMES[axis]} of {tag} is Auto: {WHY[axis]}, and {_list(followers[axis])} "
                f"{'follows' if len(followers[axis]) == 1 else 'follow'} it.",
            )


def _unknown_in(members: Members, *, axis: str) -> tuple[str, ...]:
    """Return the tags of the languages whose trait no row tells and their text can."""
    return tuple(
        language.found.tag
        for language, traits in members
        if _is_unknown(traits, axis=axis) and _is_measurable(language, axis=axis)
    )


def _is_unknown(traits: TraitSet, *, axis: str) -> bool:
    return axis not in traits or traits[axis].source not in ROWS


def _is_measurable(language: LanguageEvidence, *, axis: str) -> bool:
    return axis != "morphology" or language.found.script not in SCRIPTS_WITHOUT_SPACES


def _followers(
    axes: Axes, *, unknown: tuple[str, ...], overrides: Overrides
) -> dict[str, list[str]]:
    """Return the parameters that would follow each unknown axis, whatever the others turn out to be."""
    choices = {axis: (*CLASSES[axis], getattr(axes, axis)) for axis in unknown}
    decided: dict[tuple[TraitValue | None, ...], dict[str, JsonValue]] = {}
    for chosen in product(*choices.values()):
        tried = replace(axes, **dict(zip(unknown, chosen, strict=True)))
        rules = match_rules(tried, groups=guide.GROUPS)
        decided[chosen] = decide_values(rules, overrides=overrides)
    return {
        axis: _differing(decided, place=place, choices=choices[axis])
        for place, axis in enumerate(unknown)
    }


def _differing(
    decided: Mapping[tuple[TraitValue | None, ...], dict[str, JsonValue]],
    *,
    place: int,
    choices: tuple[TraitValue | None, ...],
) -> list[str]:
    """Return the parameters that change when only the axis at `place` does."""
    differing: set[str] = set()
    for chosen, values in decided.items():
        for other in choices:
            changed = decided[(*chosen[:place], other, *chosen[place + 1 :])]
            differing |= {name for name in values if values[name] != changed[name]}
    # The trainer's view of alpha is shown and never trained with (C2).
    differing.discard(guide.TRAINER_ALPHA)
    return [name for name in guide.GROUPS if name in differing]


def _list(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
