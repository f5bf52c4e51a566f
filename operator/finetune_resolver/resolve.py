"""From a resource and what was measured to every parameter with its reason.

In flow order: find the languages → resolve their traits → fold them → both policies decide → apply
the overrides → the method by memory → state the reasons → advise. Pure and total: the same input
gives the same resolution, and every parameter has exactly one decision.
"""

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
    Verdict,
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
from finetune_resolver.traits.combine_languages import Members, fold_traits
from finetune_resolver.traits.evidence import Known, tokenizer_family
from finetune_resolver.traits.measurement import Measurements
from finetune_resolver.traits.resolve_traits import (
    resolve_job_traits,
    resolve_language_traits,
    without_labels,
)
from finetune_resolver.traits.trait import (
    AXIS_NAMES,
    Axes,
    Trait,
    TraitSet,
    TraitSource,
    build_axes,
)
from finetune_resolver.warnings.advise import advise
from finetune_resolver.warnings.context import Circumstances

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
    traits = resolve_traits(spec, measured=measured, members=members)
    axes = build_axes(traits)
    guide = decide_by_guide(axes, defaults=defaults, overrides=overrides)
    memory = _memory_trait(spec, measured=measured, facts=facts, nominal=guide)
    if memory is not None:
        traits = traits | {"gpu_memory": memory}
    # Ample is what was decided with already.
    if memory is not None and memory.value is GpuMemoryClass.CONSTRAINED:
        axes = build_axes(traits)
        guide = decide_by_guide(axes, defaults=defaults, overrides=overrides)
    evidence = decide_by_evidence(facts, defaults=defaults, overrides=overrides)
    verdicts = (guide, evidence)
    if spec.policy is Policy.EVIDENCE:
        verdicts = (evidence, guide)
        members = _by_evidence(members)
        traits = fold_traits(members) | {axis: traits[axis] for axis in JOB_AXES}
        axes = build_axes(traits)
    return _conclude(
        spec,
        verdicts,
        members=members,
        traits=traits,
        axes=axes,
        facts=facts,
        overrides=overrides,
    )


JOB_AXES = ("model_depth", "gpu_memory")
"""Axes that are the job's and no language's: the policies share them."""


def _conclude(
    spec: LanguageFinetuneSpec,
    verdicts: tuple[Verdict, Verdict],
    *,
    members: Members,
    traits: TraitSet,
    axes: Axes,
    facts: Facts,
    overrides: Overrides,
) -> Resolution:
    """Return the resolution by the first of two verdicts, the second one's values beside it."""
    chosen, other = verdicts
    _refuse_missing_modules(chosen, facts=facts, overrides=overrides)
    fitting = decide_fitting_method(facts, chosen.values)
    memory = fitting.estimate if fitting else None
    method = decide_method(spec, facts=facts, fitting=fitting)
    circumstances = Circumstances(
        members=members,
        axes=axes,
        values=chosen.values,
        overrides=frozenset(overrides),
        world=facts.world,
        policy=chosen.policy,
        facts=facts,
        method=method.value,
        memory=memory,
    )
    return Resolution(
        traits=tuple(traits[axis] for axis in AXIS_NAMES if axis in traits),
        axes=axes,
        decisions=build_decisions(
            chosen, other=other, overrides=overrides, facts=facts, traits=traits
        ),
        warnings=advise(circumstances),
        method=method,
        policy=chosen.policy,
        predicted_memory=memory,
        total_steps=estimate_total_steps(chosen.values, world=facts.world, examples=facts.examples),
    )


def resolve_members(spec: LanguageFinetuneSpec, *, measured: Measurements) -> Members:
    """Return each language of the resource with what is known of it and its traits."""
    family = measured.tokenizer_family or tokenizer_family(spec.model.uri)
    members: Members = []
    for index, language in enumerate(spec.languages):
        known = Known(
            declared=language.traits or NO_TRAITS,
            found=find(language.tag),
            measured=measured.language(index),
            stage=spec.stage,
            family=family,
            english_bytes_per_token=measured.english_bytes_per_token,
        )
        members.append((known, resolve_language_traits(known)))
    return members


def _by_evidence(members: Members) -> Members:
    again = [(known._replace(policy=Policy.EVIDENCE), traits) for known, traits in members]
    return [(known, without_labels(known, traits)) for known, traits in again]


def resolve_traits(
    spec: LanguageFinetuneSpec, *, measured: Measurements, members: Members
) -> TraitSet:
    """Return the traits of all languages together and those of the job."""
    return fold_traits(members) | resolve_job_traits(
        depth=spec.model.depth, memory=spec.resources.gpu_memory_class, measured=measured
    )


def _memory_trait(
    spec: LanguageFinetuneSpec, *, measured: Measurements, facts: Facts, nominal: Verdict
) -> Trait | None:
    """Return what the memory model says of the nominal batch; None where nobody asks it."""
    if spec.resources.gpu_memory_class or measured.gpu_memory_class:
        return None
    decision = decide_nominal_class(facts, nominal.values)
    if decision is None:
        return None
    return Trait("gpuMemory", decision.value, TraitSource.MEASURED, decision.message)


def _refuse_missing_modules(chosen: Verdict, *, facts: Facts, overrides: Overrides) -> None:
    """Refuse a rule's own modules on a model that fuses them; `memory` refuses those that the user names."""
    shape, modules = facts.shape, chosen.values["target_modules"]
    if shape is None or "target_modules" in overrides or not isinstance(modules, list):
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
