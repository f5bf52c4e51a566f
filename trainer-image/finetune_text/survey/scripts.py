"""Scripts: which one a character belongs to, and which one a language tag asks for.

Pure, below `words` and `measure`. Characters are classified once each and remembered in a table over
all of Unicode, so that a text is classified by one look-up a character.
"""

import functools

import langcodes
import numpy as np
import regex
from langcodes.tag_parser import LanguageTagError
from numpy.typing import NDArray

NO_WORD = 0
"""Class of what stands between words."""
NEUTRAL = 1
"""Class of digits, and of letters and marks that several scripts share."""
FIRST_SCRIPT = 2
CODES = [
    "Latn",
    "Cyrl",
    "Arab",
    "Deva",
    "Hani",
    "Hira",
    "Kana",
    "Hang",
    "Grek",
    "Hebr",
    "Thai",
    "Ethi",
    "Beng",
    "Taml",
    "Telu",
    "Knda",
    "Mlym",
    "Gujr",
    "Guru",
    "Orya",
    "Sinh",
    "Mymr",
    "Khmr",
    "Laoo",
    "Tibt",
    "Geor",
    "Armn",
    "Mong",
    "Olck",
    "Thaa",
    "Nkoo",
    "Tfng",
    "Cher",
    "Cans",
    "Syrc",
    "Java",
    "Sund",
    "Bali",
    "Tglg",
    "Bugi",
    "Mtei",
    "Adlm",
    "Vaii",
    "Yiii",
    "Lisu",
    "Sylo",
    "Limb",
    "Lepc",
    "Tale",
    "Talu",
    "Lana",
    "Cakm",
    "Copt",
    "Goth",
    "Rohg",
    "Hmnp",
]
"""ISO 15924 codes of scripts in living use, the commonest first; their place gives the class."""
WRITTEN_AS = {
    "Hans": frozenset({"Hani"}),
    "Hant": frozenset({"Hani"}),
    "Jpan": frozenset({"Hani", "Hira", "Kana"}),
    "Hrkt": frozenset({"Hira", "Kana"}),
    "Kore": frozenset({"Hang", "Hani"}),
    "Aran": frozenset({"Arab"}),
}
"""Scripts of tags that are written with the letters of others."""
WITHOUT_SPACES = frozenset({"Hani", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})
"""Scripts in which spaces do not divide words: there are no words to count."""


_SCRIPT = regex.compile("|".join(rf"(?P<{code}>\p{{Script={code}}})" for code in CODES))
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]")
_UNSEEN = 255
_table: NDArray[np.uint8] = np.full(0x110000, _UNSEEN, dtype=np.uint8)


def code_of(script_class: int) -> str:
    """Return the ISO 15924 code of a script's class."""
    return CODES[script_class - FIRST_SCRIPT]


def class_of(code: str) -> int:
    """Return the class of a script's code."""
    return CODES.index(code) + FIRST_SCRIPT


def classify(points: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return the class of each code point; shapes: (characters,)."""
    classes = _table[points]
    if (classes == _UNSEEN).any():
        for point in np.unique(points[classes == _UNSEEN]):
            _table[point] = _classify_character(chr(point))
        classes = _table[points]
    return classes


def _classify_character(character: str) -> int:
    if not _WORD.match(character):
        return NO_WORD
    found = _SCRIPT.match(character)
    return class_of(str(found.lastgroup)) if found else NEUTRAL


@functools.lru_cache(maxsize=256)
def scripts_of_tag(tag: str) -> frozenset[str]:
    """Return the scripts that a text of this tag is written in; empty where the tag tells none."""
    try:
        language = langcodes.Language.get(tag)
    except LanguageTagError:
        return frozenset()
    script = language.script
    base = language.language or "und"
    # CLDR completes what it does not know to American English, which would be an invention.
    if (
        script is None
        and base != "und"
        and not base.startswith("x-")
        and not "qaa" <= base <= "qtz"
    ):
        script = language.maximize().script
    if script is None or (script not in WRITTEN_AS and script not in CODES):
        return frozenset()
    return WRITTEN_AS.get(script, frozenset({script}))
