"""Language names in file names: which token of a name is a language tag. Pure.

Read are BCP 47 tags (`sw`, `sw-KE`, `zh-Hans`), ISO 639-3 and FLORES codes (`swh`, `swh_Latn`) and the
English names of common languages (`swahili`).
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

import langcodes
from langcodes.tag_parser import LanguageTagError

_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z]{4})?(?:[-_](?:[A-Za-z]{2}|\d{3}))?")
_PIECES = re.compile(
    r"(?<![A-Za-z])[a-z]{2,3}[-_][A-Z][a-z]{3}(?:[-_][A-Z]{2})?(?![A-Za-z])"
    r"|(?<![A-Za-z])[a-z]{2}[-_][A-Z]{2}(?![A-Za-z])"
    r"|[A-Za-z]+|\d+"
)
"""Tokens of a name: tags with a script or a region stay whole."""
ENGLISH_WORDS = frozenset(
    [
        "add",
        "age",
        "aid",
        "air",
        "all",
        "and",
        "any",
        "are",
        "art",
        "ask",
        "bad",
        "bag",
        "bar",
        "big",
        "bin",
        "box",
        "bug",
        "bus",
        "but",
        "buy",
        "can",
        "car",
        "cat",
        "cut",
        "day",
        "dev",
        "dig",
        "doc",
        "dog",
        "dry",
        "ear",
        "eat",
        "end",
        "eng",
        "far",
        "fat",
        "few",
        "fix",
        "fly",
        "for",
        "fun",
        "gap",
        "gas",
        "get",
        "git",
        "gun",
        "had",
        "has",
        "hat",
        "her",
        "him",
        "his",
        "hot",
        "how",
        "ice",
        "ill",
        "ink",
        "its",
        "job",
        "key",
        "kid",
        "kit",
        "law",
        "lay",
        "leg",
        "let",
        "lie",
        "log",
        "lot",
        "low",
        "mad",
        "man",
        "map",
        "may",
        "men",
        "mid",
        "mix",
        "mud",
        "net",
        "new",
        "nor",
        "not",
        "now",
        "nut",
        "obs",
        "odd",
        "off",
        "oil",
        "old",
        "one",
        "our",
        "out",
        "own",
        "pay",
        "pen",
        "pet",
        "pie",
        "pot",
        "put",
        "ran",
        "raw",
        "red",
        "rep",
        "rev",
        "rid",
        "rob",
        "row",
        "rub",
        "run",
        "sad",
        "sat",
        "saw",
        "say",
        "sea",
        "see",
        "set",
        "she",
        "sit",
        "six",
        "sky",
        "son",
        "sub",
        "sum",
        "sun",
        "tab",
        "tag",
        "tax",
        "tea",
        "ten",
        "the",
        "tie",
        "tip",
        "toe",
        "too",
        "top",
        "toy",
        "try",
        "two",
        "ups",
        "use",
        "val",
        "van",
        "via",
        "war",
        "was",
        "way",
        "web",
        "wet",
        "who",
        "why",
        "win",
        "wit",
        "won",
        "yes",
        "yet",
        "you",
        "aux",
        "alt",
        "tmp",
        "ref",
        "src",
        "img",
        "pos",
        "neg",
        "mil",
        "bio",
        "aim",
        "min",
        "max",
        "avg",
        "med",
        "lib",
        "exp",
        "con",
        "pro",
    ]
) - {"eng"}
"""Three letters that are an ISO 639-3 code and, in a file's name, more often a word."""
SHORT_WORDS = frozenset(
    [
        "am",
        "an",
        "as",
        "be",
        "he",
        "id",
        "ie",
        "in",
        "io",
        "is",
        "it",
        "my",
        "no",
        "or",
        "so",
        "to",
        "ml",
        "cs",
    ]
)
"""Two letters that are an ISO 639-1 code and often a word; alone they prove no language."""
LOWER_CASE_REGIONS = frozenset(
    ["ar-sa", "en-ca", "en-ie", "en-in", "fr-ca", "hi-in", "pt-br", "pt-pt", "zh-tw"]
)
"""Locales in lower case whose region is a language code too."""
LANGUAGE_NAMES = {
    "albanian": "sq",
    "amharic": "am",
    "arabic": "ar",
    "armenian": "hy",
    "assamese": "as",
    "aymara": "ay",
    "azerbaijani": "az",
    "bangla": "bn",
    "basque": "eu",
    "belarusian": "be",
    "bengali": "bn",
    "bulgarian": "bg",
    "burmese": "my",
    "cantonese": "yue",
    "catalan": "ca",
    "cebuano": "ceb",
    "chinese": "zh",
    "croatian": "hr",
    "czech": "cs",
    "danish": "da",
    "dutch": "nl",
    "english": "en",
    "esperanto": "eo",
    "estonian": "et",
    "farsi": "fa",
    "filipino": "fil",
    "finnish": "fi",
    "french": "fr",
    "galician": "gl",
    "ganda": "lg",
    "georgian": "ka",
    "german": "de",
    "greek": "el",
    "guarani": "gn",
    "gujarati": "gu",
    "hausa": "ha",
    "hebrew": "he",
    "hindi": "hi",
    "hungarian": "hu",
    "icelandic": "is",
    "igbo": "ig",
    "indonesian": "id",
    "irish": "ga",
    "isixhosa": "xh",
    "isizulu": "zu",
    "italian": "it",
    "japanese": "ja",
    "javanese": "jv",
    "kannada": "kn",
    "kazakh": "kk",
    "khmer": "km",
    "kinyarwanda": "rw",
    "kiswahili": "sw",
    "korean": "ko",
    "kurdish": "ku",
    "kyrgyz": "ky",
    "lao": "lo",
    "latin": "la",
    "latvian": "lv",
    "lingala": "ln",
    "lithuanian": "lt",
    "luganda": "lg",
    "malagasy": "mg",
    "malay": "ms",
    "malayalam": "ml",
    "maltese": "mt",
    "mandarin": "zh",
    "maori": "mi",
    "marathi": "mr",
    "mongolian": "mn",
    "nepali": "ne",
    "norwegian": "no",
    "odia": "or",
    "oriya": "or",
    "oromo": "om",
    "pashto": "ps",
    "persian": "fa",
    "polish": "pl",
    "portuguese": "pt",
    "punjabi": "pa",
    "quechua": "qu",
    "romanian": "ro",
    "russian": "ru",
    "sanskrit": "sa",
    "serbian": "sr",
    "setswana": "tn",
    "shona": "sn",
    "sinhala": "si",
    "slovak": "sk",
    "slovenian": "sl",
    "somali": "so",
    "spanish": "es",
    "sundanese": "su",
    "swahili": "sw",
    "swedish": "sv",
    "tagalog": "tl",
    "tajik": "tg",
    "tamil": "ta",
    "tatar": "tt",
    "telugu": "te",
    "thai": "th",
    "tibetan": "bo",
    "tigrinya": "ti",
    "tswana": "tn",
    "turkish": "tr",
    "ukrainian": "uk",
    "urdu": "ur",
    "uyghur": "ug",
    "uzbek": "uz",
    "vietnamese": "vi",
    "welsh": "cy",
    "wolof": "wo",
    "xhosa": "xh",
    "yoruba": "yo",
    "zulu": "zu",
}
"""English names of languages, and their BCP 47 tags."""
_SAME_LANGUAGE = {"no": "nb"}
"""Norwegian without a variety is Bokmål in text corpora."""


@dataclass(frozen=True)
class NamedLanguage:
    """A language that a token of a file's name states."""

    language: str
    """BCP 47 language subtag as written, normalised."""
    macro: str
    """Its macrolanguage, or itself (`swh` is `sw`)."""
    script: str
    """ISO 15924, stated or implied by the region; empty if the token states none."""
    region: str
    is_certain: bool
    """Whether the token can hardly be an English word."""


def split_name(component: str) -> tuple[str, ...]:
    """Return the tokens of a folder's or a file's name: words, numbers and whole language tags."""
    if _is_tag(component):
        return (component,)
    return tuple(_PIECES.findall(component))


def _is_tag(component: str) -> bool:
    if not _TAG.fullmatch(component) or _parse(component.replace("_", "-")) is None:
        return False
    first, _, second = component.replace("_", "-").partition("-")
    if first.lower() in ENGLISH_WORDS:
        return False
    # Two languages side by side, as parallel texts have them, and no region.
    is_pair = second == second.lower() and len(second) == 2 and _parse(second) is not None
    return not is_pair or f"{first}-{second}".lower() in LOWER_CASE_REGIONS


@lru_cache(maxsize=65_536)
def parse_language(token: str) -> NamedLanguage | None:
    """Return the language that a token states, or None if it states none."""
    lowered = token.lower()
    if lowered in LANGUAGE_NAMES:
        return _build(langcodes.Language.get(LANGUAGE_NAMES[lowered]), is_certain=True)
    if not _is_tag(token) or lowered in ENGLISH_WORDS:
        return None
    language = _parse(token.replace("_", "-"))
    if language is None:
        return None
    built = _build(language, is_certain=True)
    if len(token) > 3 or (len(built.macro) == 2 and lowered not in SHORT_WORDS):
        return built
    return replace(built, is_certain=False)


def parse_tag(tag: str) -> NamedLanguage | None:
    """Return the language of a resource's tag, or None if it names none (`und`, private use)."""
    language = _parse(tag)
    return _build(language, is_certain=True) if language is not None else None


def match_languages(wanted: NamedLanguage, found: list[NamedLanguage]) -> list[NamedLanguage]:
    """Return those of `found` that are the wanted language, the closest ones only.

    A member of the wanted macrolanguage counts if the language itself is not there; a region counts if
    both name one, and an equal region leaves out the files without a region.
    """
    fitting = [each for each in found if _is_macro_of(wanted, each) and _fits_script(wanted, each)]
    exact = [each for each in fitting if _same(each.language) == _same(wanted.language)]
    fitting = exact or fitting
    if not wanted.region:
        return fitting
    regional = [each for each in fitting if each.region == wanted.region]
    return regional or [each for each in fitting if not each.region]


def _is_macro_of(wanted: NamedLanguage, found: NamedLanguage) -> bool:
    return _same(wanted.macro) == _same(found.macro)


def _fits_script(wanted: NamedLanguage, found: NamedLanguage) -> bool:
    if wanted.script and found.script:
        return wanted.script == found.script
    if not wanted.script and not found.script:
        return True
    explicit, other = (wanted, found) if wanted.script else (found, wanted)
    usual = langcodes.Language.get(other.language).maximize().script
    return usual is None or explicit.script == usual


def _same(language: str) -> str:
    return _SAME_LANGUAGE.get(language, language)


def _parse(tag: str) -> langcodes.Language | None:
    try:
        language = langcodes.Language.get(tag)
    except LanguageTagError:
        return None
    if not language.language or language.language == "und" or not language.is_valid():
        return None
    return language


def _build(language: langcodes.Language, *, is_certain: bool) -> NamedLanguage:
    subtag = str(language.language)
    script = language.script or (language.maximize().script if language.territory else "") or ""
    return NamedLanguage(
        language=langcodes.standardize_tag(subtag),
        macro=langcodes.standardize_tag(subtag, macro=True),
        script=script,
        region=language.territory or "",
        is_certain=is_certain,
    )
