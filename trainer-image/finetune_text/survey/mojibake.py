"""Mojibake: text that was decoded with the wrong encoding, and characters that were lost on the way.

Pure, below `measure`. It looks for what no writer types: UTF-8 bytes read as Windows-1252 ("Ã©") or as
Windows-1251 ("РїСЂРё"), replacement characters and control characters. Quotes, « » and no-break spaces
beside accented letters are ordinary French, Spanish and German, and prove nothing.
"""

import re

_C1 = "\x80-\x9f"
_LOST = re.compile(f"[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f{_C1}]")
"""The mark of a character that could not be decoded, and controls that no text holds."""


def _read_as(encoding: str, first: int, last: int) -> dict[str, int]:
    """Return the characters that bytes are read as; where the table has a gap, the control character."""
    read = {}
    for byte in range(first, last + 1):
        try:
            read[bytes([byte]).decode(encoding)] = byte
        except UnicodeDecodeError:
            read[chr(byte)] = byte
    return read


def _one_of(characters: str) -> str:
    return "[" + re.escape(characters) + "]"


_WESTERN = _read_as("cp1252", 0x80, 0xFF)
_FOLLOWING = "".join(c for c, byte in _WESTERN.items() if byte < 0xC0)
"""What the second and later bytes of a character are read as."""
_ORDINARY = "\xa0«»‘’“”‚„‹›–—…´¨"
"""Of these, the ones that stand beside letters in ordinary text."""
_TELLING = "".join(c for c in _FOLLOWING if c not in _ORDINARY and not c.isalpha())
"""No letters: in Sámi and Slavic words š and ž follow accented vowels."""
_ANY, _TELLS = _one_of(_FOLLOWING), _one_of(_TELLING)
_WESTERN_PAIR = f"[ÂÃÄÅÎÏÐÑØÙ]{_one_of(_TELLING + 'Ÿƒ')}"
_WESTERN_TRIPLE = f"[à-ï](?:{_TELLS}{_ANY}|{_ANY}{_TELLS})"
_WESTERN_QUOTE = "â€[™œž˜¦“”\x9d\x9c]|ï»¿"
_CYRILLIC = _read_as("cp1251", 0x80, 0xBF)
_CYRILLIC_RUN = f"(?:[РС]{_one_of(''.join(_CYRILLIC))}){{3,}}"
"""Three pairs: one alone is a word such as «Рік»."""
_MISREAD = re.compile("|".join((_WESTERN_PAIR, _WESTERN_TRIPLE, _WESTERN_QUOTE, _CYRILLIC_RUN)))
_REVERSE = {**_WESTERN, **{chr(byte): byte for byte in range(0x80, 0x100)}}


def find_mojibake(text: str) -> str | None:
    """Return what is wrong and where, or None where the text looks well."""
    if text.isascii() and not _LOST.search(text):
        return None
    lost = _LOST.search(text)
    if lost:
        return f"holds U+{ord(lost.group()):04X} at character {lost.start() + 1}: text was lost"
    for found in _MISREAD.finditer(text):
        meant = _meant(found.group())
        if meant is not None:
            return (
                f"holds {found.group()!r} at character {found.start() + 1}, which is {meant!r} read with"
                " the wrong encoding"
            )
    return None


def _meant(misread: str) -> str | None:
    """Return what the bytes say as UTF-8, or None where they say nothing."""
    table = _REVERSE if misread[0] not in "РС" else None
    try:
        raw = (
            misread.encode("cp1251")
            if table is None
            else bytes(table[character] for character in misread)
        )
        meant = raw.decode("utf-8")
    except (UnicodeError, KeyError):
        return None
    return meant if meant.isprintable() or meant == "\ufeff" else None
