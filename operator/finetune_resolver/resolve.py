"""From a resource and what was measured to every parameter with its reason.

In flow order: find the languages → resolve their traits → fold them → both policies decide → apply
the overrides → the method by memory → state the reasons → advise. Pure and total: the same input
gives the same resolution, and every parameter has exactly one decision.
"""

from dataclasses import replace

from finetune_api.resource import (
    GpuMemoryClass,
    LanguageFinetuneSpec,
    MultilingualStrategy,
    Policy,
    Traits,
)
from finetune_resolver.advice import advise
from finetune_resolver.catalogue import find
from finetune_resolver.circumstances import Circumstances
from finetune_resolver.decisions import build_decisions
from finetune_resolver.errors import UnsupportedSpecError
from finetune_resolver.facts import Facts, gather_facts
from finetune_resolver.fold import Members, fold_traits
from finetune_resolver.known import Known, tokenizer_family
from finetune_resolver.measurement import Measurements
from finetune_resolver.memory_fit import MethodDecision, decide_gpu_memory_class
from finetune_resolver.method import decide_method
from finetune_resolver.overrides import build_overrides
from finetune_resolver.resolution import Resolution
from finetune_resolver.steps import count, estimate_total_steps
from finetune_resolver.trait import AXIS_NAMES, Trait, TraitSet, TraitSource, build_axes
from finetune_resolver.traits import resolve_job_traits, resolve_language_traits, without_labels
from finetune_resolver.verdict import Verdict, decide_by_evidence, decide_by_guide, decide_defaults
from finetune_resolver.workload import build_workload, decide_fitting_method

NO_TRAITS = Traits()


def resolve(spec: LanguageFinetuneSpec, *, measured: Measurements | None = None) -> Resolution:
    """Return every parameter of a resource with its reason.

    Without `measured` the text and the model count as unknown; `needs.measurement_needs` tells whether
    that is enough, and `from_profile.measurements_of` makes it of a profile.

    Raises:
        UnknownLanguageError: a tag is not a language.
        UnsupportedSpecError: the resource asks for behaviour that does not exist yet.
        UnsupportedModelError: an adapter is put on a module that the model lacks.
        InsufficientGpuMemoryError: not even one sequence fits the GPU.
    """
    _refuse_unsupported(spec)
    measured = measured or Measurements()
    members = resolve_members(spec, measured=measured)
    facts = gather_facts(spec, measured=measured, known=[known for known, _ in members])
    overrides = build_overrides(spec.parameters, shape=measured.shape)
    defaults = decide_defaults(spec, overrides=overrides)

    def by_guide(traits: TraitSet) -> Verdict:
        return decide_by_guide(build_axes(traits), defaults=defaults, overrides=overrides)

    traits = resolve_traits(spec, measured=measured, members=members)
    guide = by_guide(traits)
    fitting = _fitting_by_guide(facts, guide, policy=spec.policy)
    memory = decide_memory_trait(
        spec, measured=measured, facts=facts, nominal=guide, fitting=fitting
    )
    if memory is not None:
        traits = traits | {"gpu_memory": memory}
        if memory.value is GpuMemoryClass.CONSTRAINED:
            guide = by_guide(traits)
    chosen, other = guide, decide_by_evidence(facts, defaults=defaults, overrides=overrides)
    if spec.policy is Policy.EVIDENCE:
        chosen, other = other, guide
        members = _by_evidence(members)
        traits = fold_traits(members) | {axis: traits[axis] for axis in JOB_AXES}
        fitting = decide_fitting_method(facts, chosen.values)
    method = decide_method(spec, facts=facts, fitting=fitting)
    circumstances = Circumstances(
        members=members,
        axes=build_axes(traits),
        values=chosen.values,
        overrides=frozenset(overrides),
        world=facts.world,
        policy=spec.policy,
        facts=facts,
        method=method.value,
        memory=fitting.estimate if fitting else None,
    )
    return Resolution(
        traits=tuple(traits[axis] for axis in AXIS_NAMES if axis in traits),
        axes=circumstances.axes,
        decisions=build_decisions(
            chosen, other=other, overrides=overrides, facts=facts, traits=traits
        ),
        warnings=advise(circumstances),
        method=method,
        policy=spec.policy,
        predicted_memory=fitting.estimate if fitting else None,
        total_steps=estimate_total_steps(chosen.values, world=facts.world, examples=facts.examples),
    )


JOB_AXES = ("model_depth", "gpu_memory")


def _fitting_by_guide(facts: Facts, guide: Verdict, *, policy: Policy) -> MethodDecision | None:
    modules = guide.values["target_modules"]
    names = map(str, modules) if isinstance(modules, list) else ()
    # That the model lacks the guide's modules is no reason to refuse what Evidence decides.
    if policy is Policy.EVIDENCE and facts.shape is not None and not facts.shape.has(names):
        return None
    return decide_fitting_method(facts, guide.values)


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


def _by_evidence(members: Members) -> Members:
    again = [(replace(known, policy=Policy.EVIDENCE), traits) for known, traits in members]
    return [(known, without_labels(known, traits)) for known, traits in again]


def resolve_traits(
    spec: LanguageFinetuneSpec, *, measured: Measurements, members: Members
) -> TraitSet:
    """Return the traits of all languages together and those of the job."""
    return fold_traits(members) | resolve_job_traits(
        depth=spec.model.depth, memory=spec.resources.gpu_memory_class, measured=measured
    )


def decide_memory_trait(
    spec: LanguageFinetuneSpec,
    *,
    measured: Measurements,
    facts: Facts,
    nominal: Verdict,
    fitting: MethodDecision | None,
) -> Trait | None:
    """Return what the memory model says of the guide's nominal batch; None where it is not asked."""
    declared = spec.resources.gpu_memory_class or measured.gpu_memory_class
    if declared or fitting is None or facts.shape is None or facts.gpu_memory_bytes is None:
        return None
    decision = decide_gpu_memory_class(
        facts.shape,
        build_workload(nominal.values, method=fitting.method),
        batch_size=count(nominal.values, "batch_size"),
        max_seq_length=count(nominal.values, "max_seq_length"),
        gpu_memory_bytes=facts.gpu_memory_bytes,
    )
    return Trait("gpuMemory", decision.value, TraitSource.MEASURED, decision.message)


def _refuse_unsupported(spec: LanguageFinetuneSpec) -> None:
    multilingual = spec.multilingual
    if multilingual is not None and multilingual.strategy is MultilingualStrategy.MERGE:
        raise UnsupportedSpecError(
            "spec.multilingual.strategy is Merge, which is not supported yet: expected Mixture; "
            "change the field, or apply one resource a language."
        )
