"""From a resource and its measurements to every parameter with its reason.

In flow order: collect the evidence on each language → resolve traits → combine them → ask the memory
model for the GPU's class → let both policies decide → choose the resource's policy → check, build the
decisions and the warnings. Pure and total: the same input gives the same resolution, and every
parameter has exactly one decision. `needs` says before it whether a measurement is required.
"""

from dataclasses import dataclass

from finetune_api.resource import (
    GpuMemoryClass,
    LanguageFinetuneSpec,
    MultilingualStrategy,
    Policy,
    Traits,
)
from finetune_resolver.decisions.decisions import build_decisions
from finetune_resolver.decisions.method import decide_method
from finetune_resolver.errors import UnsupportedModelError, UnsupportedSpecError
from finetune_resolver.policies.apply_policy import (
    PolicyResult,
    decide_by_evidence,
    decide_by_guide,
    decide_defaults,
)
from finetune_resolver.policies.facts import Facts, gather_facts
from finetune_resolver.policies.overrides import MODULE_PRESETS, Overrides, build_overrides
from finetune_resolver.policies.workload import decide_fitting_method, decide_nominal_class
from finetune_resolver.resolution import Resolution
from finetune_resolver.steps import estimate_total_steps
from finetune_resolver.traits.catalogue import find
from finetune_resolver.traits.combine_languages import Members, combine_traits
from finetune_resolver.traits.evidence import LanguageEvidence, tokenizer_family
from finetune_resolver.traits.measurement import Measurements
from finetune_resolver.traits.resolve_traits import (
    resolve_job_traits,
    resolve_language_traits,
    without_labels,
)
from finetune_resolver.traits.trait import (
    AXIS_NAMES,
    Trait,
    TraitSet,
    TraitSource,
    build_axes,
)
from finetune_resolver.warnings.advise import advise
from finetune_resolver.warnings.context import WarningContext

NO_TRAITS = Traits()
JOB_AXES = ("model_depth", "gpu_memory")
"""Axes that belong to the job and not to a language; both policies share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionInputs:
    """What both policies decide from."""

    spec: LanguageFinetuneSpec
    measured: Measurements
    members: Members
    facts: Facts
    overrides: Overrides
    defaults: PolicyResult
    """The parameters that the guide does not mention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """The resource as its policy sees it."""

    chosen: PolicyResult
    other: PolicyResult
    """The other policy's result, for the alternatives."""
    members: Members
    traits: TraitSet


def resolve(spec: LanguageFinetuneSpec, *, measured: Measurements | None = None) -> Resolution:
    """Return every parameter of a resource with its reason.

    Args:
        spec: The resource.
        measured: What is known of its text, model and GPU (`from_profile.build_measurements`); without
            it text and model count as unknown.

    Raises:
        UnknownLanguageError: A tag is not a language.
        UnsupportedSpecError: The resource asks for behaviour that does not exist yet.
        UnsupportedModelError: An adapter is put on a module that the model lacks.
        InsufficientGpuMemoryError: One sequence does not fit the GPU.
    """
    _refuse_unsupported(spec)
    inputs = gather_inputs(spec, measured=measured or Measurements())
    traits, guide = decide_guide(inputs)
    evidence = decide_by_evidence(
        inputs.facts, defaults=inputs.defaults, overrides=inputs.overrides
    )
    view = _choose_policy(inputs, guide=guide, evidence=evidence, traits=traits)
    _refuse_missing_modules(view.chosen, inputs=inputs)
    return _build_resolution(inputs, view=view)


# --- Inputs -------------------------------------------------------------------------------------


def gather_inputs(spec: LanguageFinetuneSpec, *, measured: Measurements) -> ResolutionInputs:
    """Return what both policies decide from.

    Args:
        spec: the spec of the resource.
        measured: what is known of texts, model and GPU; unset fields are unknown.

    Raises:
        UnknownLanguageError: A tag is not a language.
        UnsupportedSpecError: An override has no counterpart in the plan yet.
    """
    members = resolve_members(spec, measured=measured)
    overrides = build_overrides(spec.parameters, shape=measured.shape)
    return ResolutionInputs(
        spec=spec,
        measured=measured,
        members=members,
        facts=gather_facts(
            spec, measured=measured, languages=[evidence for evidence, _ in members]
        ),
        overrides=overrides,
        defaults=decide_defaults(spec, overrides=overrides),
    )


def resolve_members(spec: LanguageFinetuneSpec, *, measured: Measurements) -> Members:
    """Return the evidence on each language of the resource, with its traits.

    Args:
        spec: the spec of the resource.
        measured: what is known of texts, model and GPU; unset fields are unknown.

    Raises:
        UnknownLanguageError: A tag is not a language.
    """
    family = measured.tokenizer_family or tokenizer_family(spec.model.uri)
    members: Members = []
    for index, language in enumerate(spec.languages):
        evidence = LanguageEvidence(
            declared=language.traits or NO_TRAITS,
            found=find(language.tag),
            measured=measured.language(index),
            stage=spec.stage,
            family=family,
            english_bytes_per_token=measured.english_bytes_per_token,
        )
        members.append((evidence, resolve_language_traits(evidence)))
    return members


# --- Traits -------------------------------------------------------------------------------------


def resolve_traits(
    spec: LanguageFinetuneSpec, *, measured: Measurements, members: Members
) -> TraitSet:
    """Return the combined traits of all languages, and the traits of the job.

    Args:
        spec: the spec of the resource.
        measured: what is known of texts, model and GPU; unset fields are unknown.
        members: the evidence on each language.
    """
    return combine_traits(members) | resolve_job_traits(
        depth=spec.model.depth, memory=spec.resources.gpu_memory_class, measured=measured
    )


# --- Policies -----------------------------------------------------------------------------------


def decide_guide(inputs: ResolutionInputs) -> tuple[TraitSet, PolicyResult]:
    """Return the traits that policy Guide reads and what it decides for them.

    The memory model decides the GPU's class if it can, from what is decided without it.
    """
    nominal = resolve_traits(inputs.spec, measured=inputs.measured, members=inputs.members)
    guide = _decide_by_guide(inputs, traits=nominal)
    memory = _estimate_gpu_class(inputs, guide=guide)
    if memory is None:
        return nominal, guide
    traits = nominal | {"gpu_memory": memory}
    if memory.value is not GpuMemoryClass.CONSTRAINED:
        # Ample is what was decided with already.
        return traits, guide
    return traits, _decide_by_guide(inputs, traits=traits)


def _estimate_gpu_class(inputs: ResolutionInputs, *, guide: PolicyResult) -> Trait | None:
    """Return whether the guide's nominal batch fits the GPU; None if it is declared or unknown."""
    if inputs.spec.resources.gpu_memory_class or inputs.measured.gpu_memory_class:
        return None
    decision = decide_nominal_class(inputs.facts, guide.values)
    if decision is None:
        return None
    return Trait("gpuMemory", decision.value, TraitSource.MEASURED, decision.message)


def _decide_by_guide(inputs: ResolutionInputs, *, traits: TraitSet) -> PolicyResult:
    return decide_by_guide(build_axes(traits), defaults=inputs.defaults, overrides=inputs.overrides)


def _choose_policy(
    inputs: ResolutionInputs, *, guide: PolicyResult, evidence: PolicyResult, traits: TraitSet
) -> PolicyView:
    if inputs.spec.policy is Policy.GUIDE:
        return PolicyView(chosen=guide, other=evidence, members=inputs.members, traits=traits)
    members = _without_guide_labels(inputs.members)
    return PolicyView(
        chosen=evidence,
        other=guide,
        members=members,
        traits=combine_traits(members) | {axis: traits[axis] for axis in JOB_AXES},
    )


def _without_guide_labels(members: Members) -> Members:
    by_evidence = [
        (evidence._replace(policy=Policy.EVIDENCE), traits) for evidence, traits in members
    ]
    return [(evidence, without_labels(evidence, traits)) for evidence, traits in by_evidence]


# --- Result -------------------------------------------------------------------------------------


def _build_resolution(inputs: ResolutionInputs, *, view: PolicyView) -> Resolution:
    """Return the resolution by the chosen policy, the other one's values beside it."""
    chosen, facts = view.chosen, inputs.facts
    axes = build_axes(view.traits)
    fitting = decide_fitting_method(facts, chosen.values)
    memory = fitting.estimate if fitting else None
    method = decide_method(inputs.spec, facts=facts, fitting=fitting)
    context = WarningContext(
        members=view.members,
        axes=axes,
        values=chosen.values,
        overrides=frozenset(inputs.overrides),
        world=facts.world,
        policy=chosen.policy,
        facts=facts,
        method=method.value,
        memory=memory,
    )
    return Resolution(
        traits=tuple(view.traits[axis] for axis in AXIS_NAMES if axis in view.traits),
        axes=axes,
        decisions=build_decisions(
            chosen,
            other=view.other,
            overrides=inputs.overrides,
            facts=facts,
            traits=view.traits,
        ),
        warnings=advise(context),
        method=method,
        policy=chosen.policy,
        predicted_memory=memory,
        total_steps=estimate_total_steps(chosen.values, world=facts.world, examples=facts.examples),
    )


# --- Refusals -----------------------------------------------------------------------------------


def _refuse_missing_modules(chosen: PolicyResult, *, inputs: ResolutionInputs) -> None:
    """Refuse a rule's own modules on a model that fuses them; `memory` refuses those the user names."""
    shape, modules = inputs.facts.shape, chosen.values["target_modules"]
    if shape is None or "target_modules" in inputs.overrides or not isinstance(modules, list):
        return
    names = [str(module) for module in modules]
    if shape.has(names):
        return
    word = next(word for word, preset in MODULE_PRESETS.items() if sorted(preset) == sorted(names))
    raise UnsupportedModelError(
        f"policy {chosen.policy} adapts {', '.join(names)}, and a model of type "
        f'"{shape.model_type}" lacks some of them, expected some of {", ".join(shape.linears())}; set '
        f"parameters.lora.targetModules to [{word}], which means {', '.join(shape.own_names(names))} "
        "here, or policy to Evidence."
    )


def _refuse_unsupported(spec: LanguageFinetuneSpec) -> None:
    multilingual = spec.multilingual
    if multilingual is not None and multilingual.strategy is MultilingualStrategy.MERGE:
        raise UnsupportedSpecError(
            "spec.multilingual.strategy is Merge, which is not supported yet: expected Mixture; "
            "change the field, or apply one resource a language."
        )
