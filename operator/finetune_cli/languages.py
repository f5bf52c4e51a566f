"""What is known of a language before its text is seen: by tag or by name, for `languages`.

Asks the catalogue and the trait sources of the resolver and keeps their answers side by side: what
policy Guide takes, what policy Evidence takes, and what decides where neither knows. Pure; it
resolves no parameter.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from finetune_api.resource import TokenDensity, TrainingStage, Traits
from finetune_cli.errors import CliError
from finetune_resolver import Trait, UnknownLanguageError
from finetune_resolver.traits.catalogue import FoundLanguage, find, load_catalogue
from finetune_resolver.traits.evidence import LanguageEvidence
from finetune_resolver.traits.measurement import LanguageMeasurement
from finetune_resolver.traits.resolve_traits import SOURCES, classify_density
from finetune_resolver.traits.trait import AXIS_NAMES, TraitSource

SHORTEST_PART = 3
"""Letters from which a part of a name finds a language."""
NEAR_NAMES = 3
"""Names suggested for one that is not known."""
NAME_SIMILARITY = 0.7
"""Similarity, 0 to 1, from which a name is suggested: tamill is Tamil and not Thai."""

MORPHOLOGY = "measured on the text (type-token ratio), where it has spaces"
CORPUS = "how much text this job has; measured, or declared"
DOCUMENTS = "how long this job's texts are; declared"


@dataclass(frozen=True, slots=True)
class TraitView:
    """One trait of a language under both policies."""

    name: str
    """As the resource spells it."""
    guide: Trait | None
    """What policy Guide takes without a declaration and a measurement."""
    evidence: Trait | None
    """What policy Evidence takes: the same sources without the guide's labels."""
    disputed: bool
    """Whether the guide's label and what else is known disagree."""
    otherwise: str = ""
    """What decides where nothing is known, or what evidence depends on."""


@dataclass(frozen=True, slots=True)
class TokenCost:
    """What a language costs with one family of tokenizers."""

    family: str
    characters_per_token: float
    premium: float
    """Tokens against English for the same content."""
    density: TokenDensity | None
    """None where the rounded figure lies on the bound."""


@dataclass(frozen=True, slots=True)
class LanguageView:
    """Everything that the catalogue and its defaults say of one tag."""

    found: FoundLanguage
    traits: tuple[TraitView, ...]
    tokens: tuple[TokenCost, ...]

    @property
    def name(self) -> str:
        """English name, or empty where the language has no row."""
        return self.found.row.name if self.found.row else ""

    @property
    def tag(self) -> str:
        """The catalogue's tag where it has a row for this script, else the tag that was asked for."""
        return self.found.tag if self.found.other_script else self.found.row_tag or self.found.tag

    @property
    def guide_ids(self) -> tuple[str, ...]:
        """Items of the guide that speak of this language."""
        return self.found.row.guide.ids if self.found.row else ()

    def trait(self, name: str) -> TraitView:
        """Return the trait called `name`."""
        return next(trait for trait in self.traits if trait.name == name)


def list_languages() -> tuple[LanguageView, ...]:
    """Return every language of the catalogue, by name."""
    views = (view_language(tag) for tag in load_catalogue())
    return tuple(sorted(views, key=lambda view: _plain(view.name)))


def find_languages(text: str) -> tuple[LanguageView, ...]:
    """Return the language that a tag means, or those whose name is, begins or holds `text`.

    Raises:
        CliError: it is neither a tag nor a name.
    """
    try:
        return (view_language(text),)
    except UnknownLanguageError as error:
        tags = _tags_by_name(text)
        if not tags:
            raise CliError([_unknown(text, suggestions=error.suggestions)]) from error
        return tuple(view_language(tag) for tag in tags)


def view_language(tag: str) -> LanguageView:
    """Return what is known of a tag.

    Raises:
        UnknownLanguageError: the tag is not a language.
    """
    found = find(tag)
    known = LanguageEvidence(
        declared=Traits(),
        found=found,
        measured=LanguageMeasurement(),
        stage=TrainingStage.INSTRUCTION,
        family="",
    )
    tokens = _token_costs(found)
    traits = (_view_trait(axis, known=known, tokens=tokens) for axis in SOURCES)
    return LanguageView(found=found, traits=tuple(traits), tokens=tokens)


def _token_costs(found: FoundLanguage) -> tuple[TokenCost, ...]:
    tokens = found.row.evidence.tokens if found.row else {}
    return tuple(
        TokenCost(family, chars, premium, _density(chars))
        for family, (chars, premium) in tokens.items()
    )


def _density(chars: float) -> TokenDensity | None:
    # A printed 2.0 is rounded: it may lie on either side of the bound.
    return None if chars == 2.0 else classify_density(chars)


def _view_trait(axis: str, *, known: LanguageEvidence, tokens: tuple[TokenCost, ...]) -> TraitView:
    said = [trait for source in SOURCES[axis] if (trait := source(known))]
    evidence = next((trait for trait in said if trait.source is not TraitSource.GUIDE), None)
    guide = said[0] if said else None
    others = {evidence.value} if evidence else set()
    if axis == "token_density" and tokens:
        others = {cost.density for cost in tokens if cost.density}
    labelled = guide is not None and guide.source is TraitSource.GUIDE
    return TraitView(
        name=AXIS_NAMES[axis],
        guide=guide,
        evidence=evidence,
        disputed=labelled and guide is not None and bool(others - {guide.value}),
        otherwise=_otherwise(axis, known=known, tokens=tokens, is_known=evidence is not None),
    )


# --- What decides where nothing is known --------------------------------------------------------

Otherwise = Callable[[LanguageEvidence, tuple[TokenCost, ...]], str]


def _otherwise(
    axis: str, *, known: LanguageEvidence, tokens: tuple[TokenCost, ...], is_known: bool
) -> str:
    """Return what decides where the databases do not; of token density, what they depend on."""
    asked = axis in OTHERWISE and (not is_known or axis == "token_density")
    return OTHERWISE[axis](known, tokens) if asked else ""


def _by_tokenizer(_: LanguageEvidence, tokens: tuple[TokenCost, ...]) -> str:
    """Return which families of tokenizers make the language dense, and which light."""
    parts = []
    for density in TokenDensity:
        families = [cost.family for cost in tokens if cost.density is density]
        if families:
            parts.append(f"{density.value} with {', '.join(families)}")
    return f"by the model's tokenizer: {'; '.join(parts)}" if parts else ""


def _resource_level(known: LanguageEvidence, _: tuple[TokenCost, ...]) -> str:
    joshi = known.found.row.evidence.facts.joshi if known.found.row else None
    return (
        "resource class 3 is neither low nor high" if joshi == 3 else "no resource class is known"
    )


def _syntax_distance(known: LanguageEvidence, _: tuple[TokenCost, ...]) -> str:
    order = known.found.row.evidence.facts.wals81_a if known.found.row else None
    return "no dominant word order" if order == "none" else "no word order is known"


OTHERWISE: dict[str, Otherwise] = {
    "token_density": _by_tokenizer,
    "morphology": lambda *_: MORPHOLOGY,
    "corpus": lambda *_: CORPUS,
    "resource_level": _resource_level,
    "documents": lambda *_: DOCUMENTS,
    "syntax_distance": _syntax_distance,
}
"""Axis to what is said where a policy knows nothing of it."""


# --- Names --------------------------------------------------------------------------------------


def _tags_by_name(text: str) -> list[str]:
    """Return the tags of the rows so called; else of those whose name has a word that so begins."""
    wanted = _plain(text)
    names = {tag: _plain(row.name) for tag, row in load_catalogue().items()}
    exact = [tag for tag, name in names.items() if name == wanted]
    if exact or len(wanted) < SHORTEST_PART:
        return exact
    return [
        tag
        for tag, name in names.items()
        if any(word.startswith(wanted) for word in re.split(r"[ ()]+", name))
    ]


def _plain(name: str) -> str:
    """Return a name without case and accents: Māori is found as maori."""
    decomposed = unicodedata.normalize("NFKD", name.strip().casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def _unknown(text: str, *, suggestions: tuple[str, ...]) -> str:
    """Return what is wrong with a text that names no language, and what is near."""
    catalogue = load_catalogue()
    by_name = {_plain(row.name): tag for tag, row in catalogue.items()}
    near = get_close_matches(_plain(text), by_name, n=NEAR_NAMES, cutoff=NAME_SIMILARITY)
    tags = dict.fromkeys((*suggestions, *(by_name[name] for name in near)))
    meant = [f"{tag} ({catalogue[tag].name})" if tag in catalogue else tag for tag in tags]
    hint = f"did you mean {' or '.join(meant)}? " if meant else ""
    return (
        f'"{text}" is neither a language tag (BCP 47) nor a name in the catalogue; {hint}'
        f"`kubectl finetune languages` lists all {len(catalogue)}."
    )
