"""Several languages in one mixture: their traits folded into one set.

The fold is careful where languages differ: the densest text bounds the length, one inflecting
language makes the mixture complex, the poorest language sets the learning rate. Each folded trait
says which language decided it. Pure.
"""

from finetune_api.resource import (
    Corpus,
    Documents,
    Morphology,
    ResourceLevel,
    SyntaxDistance,
    TokenDensity,
)
from finetune_resolver.traits.evidence import LanguageEvidence
from finetune_resolver.traits.resolve_traits import NO_CODE_SWITCHING, corpus_trait
from finetune_resolver.traits.trait import MorphologyKind, Trait, TraitSet, TraitValue

CAREFUL_FIRST: dict[str, tuple[TraitValue, ...]] = {
    "token_density": (TokenDensity.DENSE, TokenDensity.LIGHT),
    # A mixture holds at least as much text as its largest part.
    "corpus": (Corpus.LARGE, Corpus.MEDIUM, Corpus.SMALL),
    "resource_level": (ResourceLevel.LOW, ResourceLevel.HIGH),
    "documents": (Documents.LONG, Documents.SHORT),
    "syntax_distance": (SyntaxDistance.FAR, SyntaxDistance.NEAR),
}
"""The value that wins where languages differ stands first; unset languages have no say."""

Members = list[tuple[LanguageEvidence, TraitSet]]


def combine_traits(members: Members) -> TraitSet:
    """Return one set of traits for a mixture; that of a single language as it is."""
    if len(members) == 1:
        return members[0][1]
    combined: TraitSet = {}
    for axis, order in CAREFUL_FIRST.items():
        trait = _find_first(members, axis=axis, order=order)
        if trait is not None:
            combined[axis] = trait
    total = _total_corpus(members)
    if total is not None:
        combined["corpus"] = total
    return (
        combined
        | _combine_morphology(members)
        | {"code_switching": _combine_code_switching(members)}
    )


def _find_first(members: Members, *, axis: str, order: tuple[TraitValue, ...]) -> Trait | None:
    for value in order:
        for language, traits in members:
            if axis in traits and traits[axis].value == value:
                return _named(traits[axis], tag=language.found.tag)
    return None


def _named(trait: Trait, *, tag: str) -> Trait:
    detail = f"{tag}: {trait.detail}" if trait.detail else tag
    return trait._replace(detail=detail)


def _total_corpus(members: Members) -> Trait | None:
    """Return the class of all text together, where each language was measured and none declared."""
    stage = members[0][0].stage
    sizes = [language.corpus_size for language, _ in members]
    if any(language.declared.corpus is not None for language, _ in members):
        return None
    measured = [size for size in sizes if size is not None]
    return (
        corpus_trait(sum(measured), stage=stage, policy=members[0][0].policy)
        if len(measured) == len(members)
        else None
    )


def _combine_morphology(members: Members) -> TraitSet:
    """Return morphology and its kind: one complex-inflectional language decides, else any complex."""

    def rank(member: tuple[LanguageEvidence, TraitSet]) -> int:
        traits = member[1]
        if "morphology" not in traits:
            return 3
        if traits["morphology"].value is Morphology.SIMPLE:
            return 2
        kind = traits.get("morphology_kind")
        orthographic = kind is not None and kind.value is MorphologyKind.ORTHOGRAPHIC
        return 1 if orthographic else 0

    language, traits = min(members, key=rank)
    return {
        axis: _named(traits[axis], tag=language.found.tag)
        for axis in ("morphology", "morphology_kind")
        if axis in traits
    }


def _combine_code_switching(members: Members) -> Trait:
    """Return True only where a language declares it: a mixture of languages is not a mixed sentence."""
    for language, traits in members:
        if language.declared.code_switching:
            return _named(traits["code_switching"], tag=language.found.tag)
    return NO_CODE_SWITCHING
