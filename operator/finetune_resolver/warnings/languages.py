"""Advice about languages: what is not in the catalogue, and where labels and evidence disagree.

Advisors as `advice` lists them; each looks at one thing and may say one sentence a language. Pure.
"""

from collections.abc import Callable, Iterator

from finetune_resolver.resolution import Advice, Severity
from finetune_resolver.traits import measurement
from finetune_resolver.traits.evidence import LanguageEvidence
from finetune_resolver.traits.resolve_traits import (
    classify_density,
    evidence_morphology,
    evidence_resource_level,
    measured_morphology,
)
from finetune_resolver.traits.trait import AXIS_NAMES, Trait, TraitSet, TraitSource, TraitValue
from finetune_resolver.warnings.context import WarningContext

SCRIPT_SHARE = 0.9
"""Share of letters in the tag's script below which the tag is doubtful."""


def language_not_in_catalogue(context: WarningContext) -> Iterator[Advice]:
    """Say that a language has no row, and which one is near."""
    for language, _ in context.members:
        found = language.found
        if found.row is not None or not found.known_language:
            continue
        near = f" The nearest language in it is {found.close[0]}." if found.close else ""
        script = f"its script ({found.script})" if found.script else "declared traits"
        yield Advice(
            id="language-not-in-catalogue",
            parameter="tag",
            severity=Severity.WARN,
            message=f"Language {found.tag} is not in the catalogue: only {script} and what is declared "
            f"or measured decide.{near} Declare traits where you know them.",
        )


def catalogue_other_script(context: WarningContext) -> Iterator[Advice]:
    """Say that the row was written for another script."""
    for language, _ in context.members:
        found = language.found
        if found.other_script:
            yield Advice(
                id="catalogue-other-script",
                parameter="tokenDensity",
                severity=Severity.INFO,
                message=f"Language {found.tag} is written in {found.script} and the catalogue's row "
                f"{found.row_tag} in another script: its grammar counts, its token density does not.",
            )


def guide_label_disputed(context: WarningContext) -> Iterator[Advice]:
    """Say where the guide's label, the user's and the evidence differ (C8, C25, C28)."""
    for language, traits in context.members:
        yield from _disputed(language, traits, axis="morphology", evidence_of=_morphology_evidence)
        yield from _disputed(
            language, traits, axis="resource_level", evidence_of=_resource_evidence
        )


def _morphology_evidence(language: LanguageEvidence) -> tuple[str, str] | None:
    """Return (class, detail) of the evidence on morphology."""
    trait = measured_morphology(language) or evidence_morphology(language)
    return None if trait is None else (str(trait.value), trait.detail)


def _resource_evidence(language: LanguageEvidence) -> tuple[str, str] | None:
    """Return (class, detail) of the evidence on the resource level; class 3 is in between."""
    trait = evidence_resource_level(language)
    if trait is not None:
        return str(trait.value), trait.detail
    joshi = language.found.row.evidence.facts.joshi if language.found.row else None
    return None if joshi is None else ("neither Low nor High", f"resource class {joshi} of 0-5")


def _disputed(
    language: LanguageEvidence,
    traits: TraitSet,
    *,
    axis: str,
    evidence_of: Callable[[LanguageEvidence], tuple[str, str] | None],
) -> Iterator[Advice]:
    label = getattr(language.labels, axis)
    if label is None:
        return
    said = _dispute(traits.get(axis), label=label, evidence=evidence_of(language))
    if said is not None:
        yield Advice(
            id="guide-label-disputed",
            parameter=AXIS_NAMES[axis],
            severity=Severity.INFO,
            message=f"{AXIS_NAMES[axis]} of {language.found.tag} is {said}.",
            reference=", ".join(language.labels.ids),
        )


def _dispute(
    trait: Trait | None, *, label: TraitValue, evidence: tuple[str, str] | None
) -> str | None:
    """Return what counts and what disagrees with it; None where nothing does."""
    if trait is not None and trait.source is TraitSource.DECLARED:
        if trait.value == label:
            return None
        return f"declared {trait.value} and counts; the guide's label is {label}"
    if evidence is None or evidence[0] == label:
        return None
    found, detail = evidence
    if trait is not None and trait.source is TraitSource.GUIDE:
        return f"{label} by the guide and counts; the evidence says {found} ({detail})"
    # Policy Evidence: the guide's label is shown and does not count.
    return f"{found} by the evidence ({detail}) and counts; the guide's label is {label}"


def density_measured_differs(context: WarningContext) -> Iterator[Advice]:
    """Say where a label and the counted characters a token differ (C12, C13)."""
    for language, traits in context.members:
        trait = traits.get("token_density")
        said = None if trait is None else _density_dispute(trait, language=language)
        if said is not None:
            yield Advice(
                id="density-measured-differs",
                parameter="tokenDensity",
                severity=Severity.INFO,
                message=f"tokenDensity of {language.found.tag} is {said}.",
                reference="characters a token below 2.0 are Dense",
            )


def _density_dispute(trait: Trait, *, language: LanguageEvidence) -> str | None:
    """Return what counts and what disagrees with it; None where nothing does."""
    if trait.source in COUNTED:
        label = language.labels.token_density
        if label is None or label is trait.value:
            return None
        return f"{trait.value} ({trait.detail}) and counts; the guide's label is {label}"
    counted = _counted_density(language)
    if trait.source not in LABELS or counted is None:
        return None
    chars, whose = counted
    if classify_density(chars) is trait.value:
        return None
    return (
        f"{trait.value} ({trait.source.lower()}) and counts; {whose} {chars:.2f} characters a token, "
        f"which is {classify_density(chars)}"
    )


COUNTED = (TraitSource.MEASURED, TraitSource.EVIDENCE)
LABELS = (TraitSource.GUIDE, TraitSource.DECLARED)


def _counted_density(language: LanguageEvidence) -> tuple[float, str] | None:
    """Return characters a token and who counted them: the job's text, else the catalogue."""
    if language.measured.chars_per_token is not None:
        return language.measured.chars_per_token, "your text has"
    row = language.found.row
    chars = row.evidence.tokens.get(language.family) if row else None
    if chars is None or chars[0] == measurement.DENSE_BELOW:
        return None
    return chars[0], f"parallel text under {language.family}'s tokenizer has"


def script_mismatch(context: WarningContext) -> Iterator[Advice]:
    """Say that the text is not written in the tag's script."""
    for language, _ in context.members:
        share, script = language.measured.script_share, language.found.script
        if share is not None and script and share < SCRIPT_SHARE:
            yield Advice(
                id="script-mismatch",
                parameter="tag",
                severity=Severity.WARN,
                message=f"Only {share:.0%} of the letters of {language.found.tag} are in script {script}: "
                "check the tag (hi-Latn is romanised Hindi) and the dataset.",
            )
