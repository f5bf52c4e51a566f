"""The language catalogue: tags in, what is known of the language out.

`languages.yaml` beside this module is data that people review; `find` picks the most specific row
for a tag (exact, then script, then language, then macrolanguage). Facts that belong to a script do
not travel to another: romanised Hindi keeps Hindi's grammar and loses Devanagari's tokens.

Reads its own file once and nothing else. It never decides what a fact means: that is `traits`.
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib import resources

import langcodes
import yaml
from langcodes.tag_parser import LanguageTagError
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_api.resource import Morphology, ResourceLevel, SyntaxDistance, TokenDensity
from finetune_resolver.errors import UnknownLanguageError

UNDETERMINED = "und"
SAME_LANGUAGE = {"no": "nb"}
"""Tags whose row stands under another: Norwegian without a standard is nearly always Bokmål."""
SUGGESTION_DISTANCE = 25
"""CLDR's matching distance; 25 still pairs a language with a close relative (Nynorsk and Bokmål)."""

FIND_CACHE = 4096
"""Tags remembered. Users choose them, so the memory is bounded; there are about 200 in use."""


class _Row(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class GuideLabels(_Row):
    """What the guide says of a language."""

    morphology: Morphology | None = None
    token_density: TokenDensity | None = None
    resource_level: ResourceLevel | None = None
    syntax_distance: SyntaxDistance | None = None
    ids: tuple[str, ...] = ()
    """Items of the guide behind the labels."""


class LanguageFacts(_Row):
    """What databases say of a language; None is unknown."""

    joshi: int | None = Field(default=None, ge=0, le=5)
    """Resource class."""
    fineweb2_m_words: float | None = Field(default=None, alias="fineweb2MWords")
    """Million words in FineWeb-2."""
    mattr500: float | None = Field(default=None, gt=0, lt=1)
    """Type-token ratio over 500 words, on FLORES-200."""
    wals22_a: str | None = Field(default=None, alias="wals22A")
    """Inflectional categories a word, a range such as 2-3."""
    wals49_a: str | None = Field(default=None, alias="wals49A")
    """Number of cases, such as 0, 6-7 or 10+."""
    wals81_a: str | None = Field(default=None, alias="wals81A")
    """Order of subject, object and verb; `none` has no dominant one."""
    byte_premium: float | None = None
    """UTF-8 bytes relative to English on parallel text."""

    @property
    def cases(self) -> int | None:
        """The least number of cases that the text allows."""
        return None if self.wals49_a is None else int(self.wals49_a.rstrip("+").split("-")[0])


class CatalogueEvidence(_Row):
    """Facts, and what the language costs in tokens."""

    facts: LanguageFacts = LanguageFacts()
    tokens: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Tokenizer family to (characters a token, tokens relative to English)."""


class LanguageRow(_Row):
    """One row of `languages.yaml`."""

    name: str
    script: str
    """ISO 15924."""
    guide: GuideLabels = GuideLabels()
    evidence: CatalogueEvidence = CatalogueEvidence()

    def without_script_facts(self) -> "LanguageRow":
        """Return the row for a text in another script: grammar stays, tokens and bytes go."""
        facts = self.evidence.facts.model_copy(update={"byte_premium": None, "mattr500": None})
        return self.model_copy(
            update={
                "guide": self.guide.model_copy(update={"token_density": None}),
                "evidence": CatalogueEvidence(facts=facts),
            }
        )


NOTHING = LanguageRow(name="", script="")
"""Of a language that has no row."""


# Equal only to itself: `find` remembers one for each tag, and what is read of it can be remembered with it.
@dataclass(frozen=True, slots=True, eq=False)
class FoundLanguage:
    """What a tag resolved to."""

    tag: str
    """As the user wrote it."""
    script: str
    """ISO 15924, or empty where the tag says nothing of it."""
    known_language: bool = True
    """False for `und` and tags like it: they name no language."""
    row_tag: str = ""
    """Tag of the catalogue's row, or empty."""
    row: LanguageRow | None = None
    other_script: bool = False
    """True where the row is of the same language in another script."""
    close: tuple[str, ...] = ()
    """Catalogue tags near a language that has no row."""

    @property
    def labels(self) -> GuideLabels:
        """What the guide says of the language; nothing where it has no row."""
        return self.row.guide if self.row else NOTHING.guide

    @property
    def facts(self) -> LanguageFacts:
        """What databases say of the language; nothing where it has no row."""
        return self.row.evidence.facts if self.row else NOTHING.evidence.facts


@cache
def load_catalogue() -> dict[str, LanguageRow]:
    """Return every row by its tag, read from the package's own file once."""
    text = resources.files("finetune_resolver").joinpath("languages.yaml").read_text("utf-8")
    # The C parser is ten times faster and is not in every build of PyYAML; both load alike.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rows = yaml.load(text, Loader=loader)  # noqa: S506 -- both loaders are the safe ones
    return {tag: LanguageRow.model_validate(row) for tag, row in rows.items()}


@lru_cache(maxsize=FIND_CACHE)
def find(tag: str) -> FoundLanguage:
    """Return what is known of a language tag.

    Raises:
        UnknownLanguageError: the tag is not a language.
    """
    language = _parse(tag)
    script = _script(language)
    if language.language in (None, UNDETERMINED):
        return FoundLanguage(tag=tag, script=script, known_language=False)
    catalogue = load_catalogue()
    for candidate in _candidates(language, script=script):
        if candidate not in catalogue:
            continue
        row = catalogue[candidate]
        found = FoundLanguage(tag=tag, script=script, row_tag=candidate, row=row)
        if row.script == script:
            return found
        return replace(found, row=row.without_script_facts(), other_script=True)
    return FoundLanguage(tag=tag, script=script, close=_close_tags(language.to_tag()))


def _parse(tag: str) -> langcodes.Language:
    """Return the parsed tag, in standard form."""
    try:
        language = langcodes.Language.get(tag, normalize=True)
    except LanguageTagError as error:
        raise UnknownLanguageError(tag, suggestions=_suggest(tag)) from error
    if not language.is_valid():
        raise UnknownLanguageError(tag, suggestions=_suggest(tag))
    return language


def _script(language: langcodes.Language) -> str:
    """Return the script that the tag names or that CLDR finds likely; empty where it cannot tell."""
    if language.script:
        return language.script
    # CLDR completes what it does not know to American English; for a tag without a language, or
    # with a private one, that would be an invention.
    base = language.language or UNDETERMINED
    if base == UNDETERMINED or base.startswith("x-") or "qaa" <= base <= "qtz":
        return ""
    return language.maximize().script or ""


def _candidates(language: langcodes.Language, *, script: str) -> list[str]:
    """Return catalogue tags to try, the most specific first."""
    base = language.language or UNDETERMINED
    macro = langcodes.standardize_tag(base, macro=True)
    likely = langcodes.Language.get(base).maximize().script
    tags = [language.to_tag(), f"{base}-{script}", base, f"{base}-{likely}"]
    tags += [SAME_LANGUAGE.get(base, ""), f"{macro}-{script}", macro]
    return tags


def _close_tags(tag: str) -> tuple[str, ...]:
    """Return the catalogue's nearest relative by CLDR's matching data, where there is one."""
    best, _ = langcodes.closest_match(tag, list(load_catalogue()), max_distance=SUGGESTION_DISTANCE)
    return () if best == UNDETERMINED else (best,)


def _suggest(tag: str) -> tuple[str, ...]:
    """Return tags that the writer of a wrong one may have meant."""
    catalogue = load_catalogue()
    by_name = {row.name.lower(): known for known, row in catalogue.items()}
    named = get_close_matches(tag.lower().replace("-", ""), by_name, n=2, cutoff=0.75)
    if named:
        return tuple(by_name[name] for name in named)
    first = tag.split("-", maxsplit=1)[0].lower()
    # Only two or three letters can be a language subtag; parsing the rest would invent one.
    if 2 <= len(first) <= 3 and langcodes.tag_is_valid(first):
        return (langcodes.standardize_tag(first),)
    return tuple(get_close_matches(tag.lower(), catalogue, n=2, cutoff=0.5))
