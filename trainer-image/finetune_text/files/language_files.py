"""Which files of a repository of several languages are those of the wanted one. Pure.

Rule: if the paths of two files differ in one token only and that token is a language in each, the
repository is divided by language there. Then the files of the tag's language are taken and no others.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from finetune_text.files.formats import without_compression
from finetune_text.files.language_names import (
    NamedLanguage,
    match_languages,
    parse_language,
    parse_tag,
    split_name,
)


class _Place(NamedTuple):
    """Where a token is in a path: files with an equal place differ in this token alone."""

    parent: tuple[str, ...]
    is_folder: bool
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class LanguageChoice:
    """The files of one language among those of several."""

    mine: tuple[str, ...]
    others: tuple[str, ...] = ()
    """Files that name another language."""
    unnamed: tuple[str, ...] = ()
    """Files that name none, beside files that do."""
    languages: tuple[str, ...] = ()
    """What stands for a language in the names, sorted; empty if the files are not divided."""


def choose_language_files(names: Sequence[str], *, tag: str) -> LanguageChoice:
    """Return the files of the tag's language; all of them if they are not divided by language.

    Args:
        names: Paths of data files below the dataset's URI.
        tag: BCP 47 tag. A tag without a language (`und`) takes every file.

    Returns:
        A choice with `mine` empty if several languages are there and none of them is the tag's.
    """
    wanted = parse_tag(tag)
    divided = _find_divided(names, wanted=wanted)
    if wanted is None or not divided:
        return LanguageChoice(mine=tuple(names))
    found = {token: language for tokens in divided.values() for token, language in tokens.items()}
    fitting = match_languages(wanted, list(found.values()))
    role = {name: _role_of(name, divided=divided, fitting=fitting, wanted=wanted) for name in names}
    return LanguageChoice(
        mine=tuple(name for name in names if role[name] == "mine"),
        others=tuple(name for name in names if role[name] == "other"),
        unnamed=tuple(name for name in names if role[name] == "unnamed"),
        languages=tuple(sorted(found)),
    )


def _role_of(
    name: str,
    *,
    divided: dict[_Place, dict[str, NamedLanguage]],
    fitting: list[NamedLanguage],
    wanted: NamedLanguage,
) -> str:
    stated = [
        divided[place][token]
        for place, token in _places(name)
        if place in divided and token in divided[place]
    ]
    # A folder or file that is called by the language alone needs no neighbour to say so.
    alone = [
        language
        for place, token in _places(name)
        if not place.before and not place.after and (language := parse_language(token)) is not None
    ]
    if not stated:
        stated = [one for one in alone if match_languages(wanted, [one])]
        return "mine" if stated else "unnamed"
    return "mine" if all(one in fitting for one in stated) else "other"


def _find_divided(
    names: Sequence[str], *, wanted: NamedLanguage | None
) -> dict[_Place, dict[str, NamedLanguage]]:
    """Return the places of a path that hold languages, each with its tokens that are one."""
    tokens: dict[_Place, set[str]] = defaultdict(set)
    for name in names:
        for place, token in _places(name):
            tokens[place].add(token)
    divided = {}
    for place, values in tokens.items():
        languages = {value: parsed for value in values if (parsed := parse_language(value))}
        if _is_divided(languages, values=len(values), wanted=wanted):
            divided[place] = languages
    return divided


def _is_divided(
    languages: dict[str, NamedLanguage], *, values: int, wanted: NamedLanguage | None
) -> bool:
    distinct = {(one.language, one.script, one.region) for one in languages.values()}
    if len(distinct) < 2:
        return False
    is_wanted = wanted is not None and bool(match_languages(wanted, list(languages.values())))
    if len(languages) < values:
        return is_wanted and 2 * len(languages) >= values
    return is_wanted or any(one.is_certain for one in languages.values())


def _places(name: str) -> Iterator[tuple[_Place, str]]:
    parts = PurePosixPath(name).parts
    stem = PurePosixPath(without_compression(parts[-1])).suffix
    file = parts[-1][: len(without_compression(parts[-1])) - len(stem)] if stem else parts[-1]
    for depth, component in enumerate((*parts[:-1], file)):
        pieces = split_name(component)
        masked = tuple("#" if piece.isdigit() else piece.lower() for piece in pieces)
        for number, piece in enumerate(pieces):
            if not piece.isdigit():
                yield (
                    _Place(
                        parts[:depth],
                        is_folder=depth < len(parts) - 1,
                        before=masked[:number],
                        after=masked[number + 1 :],
                    ),
                    piece,
                )
