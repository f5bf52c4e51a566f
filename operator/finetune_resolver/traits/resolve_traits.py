"""Traits: what decides the parameters, and where each one comes from.

For every trait an ordered tuple of sources is asked; the first that knows decides: declared > the
guide's own row > measured on the job's text > evidence row > script or word-order default. What no
source knows stays unset, and the rules have a row for that. Several languages fold into one set.

Pure. It knows the catalogue's rows and the measurements as values, and no parameter.
"""

from collections.abc import Callable
from functools import lru_cache

from finetune_api.resource import (
    GpuMemoryClass,
    ModelDepth,
    Morphology,
    Policy,
    ResourceLevel,
    SyntaxDistance,
    TokenDensity,
    TrainingStage,
)
from finetune_resolver.traits import measurement
from finetune_resolver.traits.catalogue import FIND_CACHE, FoundLanguage
from finetune_resolver.traits.evidence import LanguageEvidence
from finetune_resolver.traits.measurement import Measurements
from finetune_resolver.traits.trait import AXIS_NAMES, MorphologyKind, Trait, TraitSet, TraitSource

ORTHOGRAPHIC_SCRIPTS = frozenset({"Hans", "Hant", "Jpan"})
"""Logographic scripts: what is complex is the writing, not the word."""
LIGHT_SCRIPTS = frozenset({"Latn", "Cyrl", "Grek"})
"""Scripts that tokenizers cover in pieces of two and more characters; 12 of 12 labels agree."""
WORD_ORDER_DISTANCE = {
    "SVO": SyntaxDistance.NEAR,
    "SOV": SyntaxDistance.FAR,
    "VSO": SyntaxDistance.FAR,
    "VOS": SyntaxDistance.FAR,
}
"""Distance from English, the main language of nearly every base model."""
Source = Callable[[LanguageEvidence], Trait | None]


def resolve_language_traits(language: LanguageEvidence) -> TraitSet:
    """Return one language's traits, each from the first source that knows it."""
    traits: TraitSet = {}
    for axis, sources in SOURCES.items():
        for source in sources:
            trait = source(language)
            if trait is not None:
                traits[axis] = trait
                break
    return traits


def resolve_job_traits(
    *, depth: ModelDepth | None, memory: GpuMemoryClass | None, measured: Measurements
) -> TraitSet:
    """Return the two traits that are the job's and not a language's.

    Args:
        depth: declared depth of the model, if any.
        memory: declared memory class, if any.
        measured: what is known of texts, model and GPU; unset fields are unknown.
    """
    return {
        "model_depth": _model_depth(depth, layers=measured.layers),
        "gpu_memory": _gpu_memory(memory, measured=measured.gpu_memory_class),
    }


# --- Declared and guide -------------------------------------------------------------------------


def _declared(axis: str) -> Source:
    name = AXIS_NAMES[axis]

    def declared(language: LanguageEvidence) -> Trait | None:
        value = getattr(language.declared, axis)
        return None if value is None else Trait(name, value, TraitSource.DECLARED)

    return declared


def _guide(axis: str) -> Source:
    @lru_cache(maxsize=FIND_CACHE)
    def label(found: FoundLanguage) -> Trait | None:
        labels = found.labels
        value = getattr(labels, axis)
        detail = f"guide's row {found.row_tag} ({', '.join(labels.ids)})"
        return None if value is None else Trait(AXIS_NAMES[axis], value, TraitSource.GUIDE, detail)

    return lambda language: label(language.found)


# --- Measured on the job's own text -------------------------------------------------------------


def classify_density(chars_per_token: float) -> TokenDensity:
    """Return the density class of a number of characters a token."""
    dense = chars_per_token < measurement.DENSE_BELOW
    return TokenDensity.DENSE if dense else TokenDensity.LIGHT


def _measured_density(language: LanguageEvidence) -> Trait | None:
    chars = language.measured.chars_per_token
    if chars is None:
        return None
    detail = f"{chars:.2f} characters a token"
    return Trait("tokenDensity", classify_density(chars), TraitSource.MEASURED, detail)


def measured_morphology(language: LanguageEvidence) -> Trait | None:
    """Return the morphology class of the job's own text, where enough of it was measured."""
    ratio, words = language.measured.mattr500, language.measured.words or 0
    if ratio is None or words < measurement.MATTR_MIN_WORDS:
        return None
    complex_ = ratio >= measurement.COMPLEX_FROM_MATTR
    value = Morphology.COMPLEX if complex_ else Morphology.SIMPLE
    detail = f"type-token ratio {ratio:.2f} over {words:,} words; weak evidence"
    return Trait("morphology", value, TraitSource.MEASURED, detail)


def _measured_corpus(language: LanguageEvidence) -> Trait | None:
    size = language.corpus_size
    return (
        None if size is None else corpus_trait(size, stage=language.stage, policy=language.policy)
    )


def corpus_trait(size: int, *, stage: TrainingStage, policy: Policy) -> Trait:
    """Return the corpus trait of a measured size.

    Args:
        size: examples of the stage Instruction, tokens of ContinuedPretraining.
        stage: what kind of training it is.
        policy: in force; the two have other classes.
    """
    unit = "examples"
    if stage is not TrainingStage.INSTRUCTION:
        unit = "unique tokens" if policy is Policy.GUIDE else "unique tokens by English's measure"
    value = measurement.classify_corpus(size, stage=stage)
    return Trait("corpus", value, TraitSource.MEASURED, f"{size:,} {unit}")


def _measured_code_switching(language: LanguageEvidence) -> Trait | None:
    index = language.measured.code_mixing_index
    if index is None:
        return None
    value = index >= measurement.CODE_SWITCHING_FROM_CMI
    return Trait(
        "codeSwitching", value, TraitSource.MEASURED, f"mean code-mixing index {index:.1f}"
    )


# --- Evidence and defaults ----------------------------------------------------------------------


def evidence_density(language: LanguageEvidence) -> Trait | None:
    """Return the density counted for the base model's tokenizer family, where it is known."""
    return _counted_density(language.found, language.family)


# What the catalogue tells of a language is the same for every resource that names it: read once.
@lru_cache(maxsize=FIND_CACHE)
def _counted_density(found: FoundLanguage, family: str) -> Trait | None:
    if found.row is None or family not in found.row.evidence.tokens:
        return None
    chars, token_premium = found.row.evidence.tokens[family]
    # A printed 2.0 is rounded: it may lie on either side of the bound.
    if chars == measurement.DENSE_BELOW:
        return None
    detail = f"{chars} characters a token with {family}'s tokenizer, {token_premium} times English's tokens"
    return Trait("tokenDensity", classify_density(chars), TraitSource.EVIDENCE, detail)


def evidence_morphology(language: LanguageEvidence) -> Trait | None:
    """Return the morphology class of WALS' number of cases, where it is known."""
    return _morphology_by_cases(language.found)


@lru_cache(maxsize=FIND_CACHE)
def _morphology_by_cases(found: FoundLanguage) -> Trait | None:
    cases = found.facts.cases
    if cases is None:
        return None
    complex_ = cases >= measurement.COMPLEX_FROM_CASES
    value = Morphology.COMPLEX if complex_ else Morphology.SIMPLE
    detail = f"{found.facts.wals49_a} cases (WALS 49A); weak evidence"
    return Trait("morphology", value, TraitSource.EVIDENCE, detail)


def evidence_resource_level(language: LanguageEvidence) -> Trait | None:
    """Return the resource level of the Joshi class; class 3 is neither."""
    return _classify_resource_level(language.found)


@lru_cache(maxsize=FIND_CACHE)
def _classify_resource_level(found: FoundLanguage) -> Trait | None:
    joshi = found.facts.joshi
    if joshi is None or measurement.LOW_UP_TO_JOSHI < joshi < measurement.HIGH_FROM_JOSHI:
        return None
    low = joshi <= measurement.LOW_UP_TO_JOSHI
    value = ResourceLevel.LOW if low else ResourceLevel.HIGH
    return Trait("resourceLevel", value, TraitSource.EVIDENCE, f"resource class {joshi} of 0-5")


@lru_cache(maxsize=FIND_CACHE)
def _distance_by_word_order(found: FoundLanguage) -> Trait | None:
    order = found.facts.wals81_a
    value = WORD_ORDER_DISTANCE.get(order or "")
    if value is None:
        return None
    return Trait("syntaxDistance", value, TraitSource.EVIDENCE, f"word order {order} (WALS 81A)")


@lru_cache(maxsize=FIND_CACHE)
def _density_by_script(found: FoundLanguage) -> Trait | None:
    script = found.script
    if not script:
        return None
    value = TokenDensity.LIGHT if script in LIGHT_SCRIPTS else TokenDensity.DENSE
    return Trait("tokenDensity", value, TraitSource.SCRIPT, f"script {script}")


NO_CODE_SWITCHING = Trait("codeSwitching", value=False, source=TraitSource.DEFAULT)


@lru_cache(maxsize=FIND_CACHE)
def _kind_by_script(found: FoundLanguage) -> Trait | None:
    script = found.script
    if not script:
        return None
    orthographic = script in ORTHOGRAPHIC_SCRIPTS
    value = MorphologyKind.ORTHOGRAPHIC if orthographic else MorphologyKind.INFLECTIONAL
    return Trait("morphologyKind", value, TraitSource.DERIVED, f"script {script}")


SOURCES: dict[str, tuple[Source, ...]] = {
    "token_density": (
        _declared("token_density"),
        _guide("token_density"),
        _measured_density,
        evidence_density,
        lambda language: _density_by_script(language.found),
    ),
    "morphology": (
        _declared("morphology"),
        _guide("morphology"),
        measured_morphology,
        evidence_morphology,
    ),
    "morphology_kind": (lambda language: _kind_by_script(language.found),),
    "corpus": (_declared("corpus"), _measured_corpus),
    "resource_level": (
        _declared("resource_level"),
        _guide("resource_level"),
        evidence_resource_level,
    ),
    "documents": (_declared("documents"),),
    "syntax_distance": (
        _declared("syntax_distance"),
        _guide("syntax_distance"),
        lambda language: _distance_by_word_order(language.found),
    ),
    "code_switching": (
        _declared("code_switching"),
        _measured_code_switching,
        lambda _: NO_CODE_SWITCHING,
    ),
}
"""Each trait's sources, the first that knows decides."""


def without_labels(language: LanguageEvidence, traits: TraitSet) -> TraitSet:
    """Return a language's traits where the guide's labels do not count: policy Evidence.

    Args:
        language: the evidence on one language.
        traits: the resolved traits.
    """
    again: TraitSet = {}
    for axis, trait in traits.items():
        other: Trait | None = trait
        if trait.source is TraitSource.GUIDE:
            other = _second_best(language, axis=axis)
        elif axis == "corpus" and trait.source is TraitSource.MEASURED:
            other = _measured_corpus(language)
        if other is not None:
            again[axis] = other
    return again


def _second_best(language: LanguageEvidence, *, axis: str) -> Trait | None:
    """Return what is known without the guide's label: nothing was declared, or it would not count."""
    return next((found for source in SOURCES[axis][2:] if (found := source(language))), None)


def _model_depth(declared: ModelDepth | None, *, layers: int | None) -> Trait:
    if declared is not None:
        return Trait("modelDepth", declared, TraitSource.DECLARED)
    if layers is None:
        return Trait("modelDepth", ModelDepth.STANDARD, TraitSource.DEFAULT)
    deep = layers >= measurement.DEEP_FROM_LAYERS
    value = ModelDepth.DEEP if deep else ModelDepth.STANDARD
    return Trait("modelDepth", value, TraitSource.MEASURED, f"{layers} hidden layers")


def _gpu_memory(declared: GpuMemoryClass | None, *, measured: GpuMemoryClass | None) -> Trait:
    if declared is not None:
        return Trait("gpuMemory", declared, TraitSource.DECLARED)
    if measured is not None:
        return Trait("gpuMemory", measured, TraitSource.MEASURED, "memory model")
    return Trait("gpuMemory", GpuMemoryClass.AMPLE, TraitSource.DEFAULT)
