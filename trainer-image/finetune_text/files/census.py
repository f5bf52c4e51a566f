"""The census of a dataset's files: every file below its URI, and what becomes of it. Pure.

Rule: a file is read, or it is of a kind that is known to hold no rows, or it is named with its count and
size in profile, status, plan and log. No file is passed over without a word. The pod that fetches from
a store, a claim or a hub and the CLI that reads a folder decide by this module alone.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from finetune_text.counting import count_of, describe_bytes, is_or_are
from finetune_text.files.formats import file_format, without_compression
from finetune_text.files.language_files import choose_language_files
from finetune_text.files.splits import TEST, TRAIN, VALIDATION, split_of

NOT_DATA_STEMS = {
    "readme",
    "license",
    "licence",
    "notice",
    "changelog",
    "manifest",
    "requirements",
    "citation",
    "sha256sums",
    "md5sums",
    "checksums",
    "authors",
    "contributing",
    "makefile",
    "dockerfile",
}
NOT_DATA_NAMES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
NOT_DATA_SUFFIXES = {".md", ".rst", ".bib", ".crc", ".sha256", ".md5", ".sig", ".asc"}
"""What tools and people leave beside data."""
SHOWN_NAMES = 3
"""File names in one sentence; profile.json names all."""
SHOWN_NAME_CHARACTERS = 80


class FileRole(StrEnum):
    """What becomes of a file."""

    READ = "Read"
    VALIDATION = "Validation"
    """Its name says that it is held out."""
    TEST = "Test"
    """Its name says that it is for a test."""
    OTHER_SPLIT = "OtherSplit"
    """It belongs to none of the wanted splits of a hub's dataset."""
    OTHER_LANGUAGE = "OtherLanguage"
    """Its name states another language."""
    NO_LANGUAGE = "NoLanguage"
    """It names no language beside files that do."""
    OTHER_FORM = "OtherForm"
    """The same rows in another format, as hubs keep them."""
    UNSUPPORTED = "Unsupported"
    """Its form is not read."""
    EMPTY = "Empty"
    """It has no byte."""
    NOT_DATA = "NotData"
    """Known to hold no rows: README, checksums, hidden files."""


@dataclass(frozen=True)
class NamedFile:
    """A file's name below its folder, and its size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class FileCensus:
    """Every file of one dataset with what becomes of it, sorted by name."""

    files: tuple[tuple[NamedFile, FileRole], ...] = ()
    languages: tuple[str, ...] = ()
    """What stands for languages in the names, if the files are divided by language."""

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the files that are read, sorted."""
        return tuple(file.name for file, role in self.files if role is FileRole.READ)

    @property
    def unread(self) -> tuple[tuple[NamedFile, FileRole], ...]:
        """Files that a person may miss: all but those read and those known to hold no rows."""
        quiet = (FileRole.READ, FileRole.NOT_DATA)
        return tuple((file, role) for file, role in self.files if role not in quiet)

    def of(self, role: FileRole) -> tuple[NamedFile, ...]:
        """Return the files with a role."""
        return tuple(file for file, each in self.files if each is role)

    def with_role(self, names: Collection[str], role: FileRole) -> "FileCensus":
        """Return the census in which the named files that were read have this role."""
        kept = set(names)
        changed = (
            (file, role if each is FileRole.READ and file.name in kept else each)
            for file, each in self.files
        )
        return FileCensus(tuple(changed), self.languages)

    def describe(self) -> tuple[str, ...]:
        """Return one sentence for each kind of file that is not read: count, size, first names."""
        return tuple(
            _describe(role, self.of(role)) for role in FileRole if role in _WHY and self.of(role)
        )


def is_data_file(file: NamedFile) -> bool:
    """Return whether a file holds rows that can be read, by its name and size."""
    return _first_role(file) is FileRole.READ


def take_census(files: Iterable[NamedFile], *, splits: Sequence[str], tag: str) -> FileCensus:
    """Return the census of a folder in a store, a claim or a disk.

    Files whose names state another split than the wanted one are set aside: training reads files that
    state `train` or nothing, a held-out part the first of `splits` that has files. Among what is left
    the files of the tag's language are read, if the files are divided by language.

    Args:
        files: Every file below the URI.
        splits: Names of splits in order of preference; `("train",)` for the training part.
        tag: BCP 47 tag of the language.
    """
    roles = {file: _first_role(file) for file in files}
    readable = [file.name for file, role in roles.items() if role is FileRole.READ]
    wanted = decide_split(readable, splits=splits)
    for file, role in roles.items():
        if role is FileRole.READ and not is_of_split(file.name, wanted):
            roles[file] = _SPLIT_ROLES[split_of(file.name)]
    return with_language(build_census(roles), tag=tag)


def take_listed_census(
    files: Iterable[NamedFile], *, chosen: Collection[str], tag: str, choose_language: bool = True
) -> FileCensus:
    """Return the census of a dataset whose wanted files somebody has chosen already, such as a card.

    Args:
        files: Every file of the dataset.
        chosen: Names of the files to read.
        tag: BCP 47 tag of the language.
        choose_language: Whether the files of other languages among the chosen ones are set aside.
    """
    roles = {file: _first_role(file) for file in files}
    formats = Counter(file_format(name) for name in chosen)
    for file, role in roles.items():
        if file.name in chosen:
            roles[file] = FileRole.READ
        elif role is FileRole.READ:
            roles[file] = _role_beside(file.name, is_of_format=file_format(file.name) in formats)
    census = build_census(roles)
    return with_language(census, tag=tag) if choose_language else census


def build_census(roles: dict[NamedFile, FileRole]) -> FileCensus:
    """Return the census of files with their roles."""
    return FileCensus(tuple(sorted(roles.items(), key=lambda item: item[0].name)))


def decide_split(names: Sequence[str], *, splits: Sequence[str]) -> str:
    """Return the first of the wanted splits that has files, or the first of all."""
    return next((one for one in splits if any(is_of_split(name, one) for name in names)), splits[0])


def is_of_split(name: str, split: str) -> bool:
    """Return whether a file is of a split; a file that states none is training data."""
    return (split_of(name) or TRAIN) == split


def with_language(census: FileCensus, *, tag: str) -> FileCensus:
    """Return the census in which only files of the tag's language are read, where names state one."""
    choice = choose_language_files(census.read, tag=tag)
    census = FileCensus(census.files, choice.languages)
    census = census.with_role(choice.others, FileRole.OTHER_LANGUAGE)
    return census.with_role(choice.unnamed, FileRole.NO_LANGUAGE)


_SPLIT_ROLES = {
    "": FileRole.OTHER_SPLIT,
    TRAIN: FileRole.OTHER_SPLIT,
    VALIDATION: FileRole.VALIDATION,
    TEST: FileRole.TEST,
}


def _role_beside(name: str, *, is_of_format: bool) -> FileRole:
    split = split_of(name)
    if split in (VALIDATION, TEST):
        return _SPLIT_ROLES[split]
    return FileRole.OTHER_SPLIT if is_of_format else FileRole.OTHER_FORM


def _first_role(file: NamedFile) -> FileRole:
    """Return what becomes of a file by itself."""
    path = PurePosixPath(file.name)
    if not path.parts or file.name.endswith("/"):
        return FileRole.NOT_DATA
    if any(part.startswith((".", "_")) for part in path.parts):
        return FileRole.NOT_DATA
    name = path.name.lower()
    is_left = name.split(".")[0] in NOT_DATA_STEMS or path.suffix.lower() in NOT_DATA_SUFFIXES
    if name in NOT_DATA_NAMES or is_left:
        return FileRole.NOT_DATA
    if file.size == 0:
        return FileRole.EMPTY
    return FileRole.READ if file_format(file.name) is not None else FileRole.UNSUPPORTED


# --- Sentences ----------------------------------------------------------------------------------

_WHY = {
    FileRole.VALIDATION: (
        "not trained on because of a name that says validation; name it in dataset.validation.uri to"
        " hold it out"
    ),
    FileRole.TEST: "not trained on because of a name that says test",
    FileRole.OTHER_SPLIT: "of another split and not read",
    FileRole.OTHER_LANGUAGE: "of another language by the name and not read",
    FileRole.NO_LANGUAGE: (
        "not read because its name states no language and others state one; name it in dataset.uri if"
        " it is meant"
    ),
    FileRole.OTHER_FORM: "not read because the rows are read in another format",
    FileRole.UNSUPPORTED: "not read because of a form that is not supported",
    FileRole.EMPTY: "empty",
}


def explain_role(role: FileRole) -> str:
    """Return why a file of this role is not read; continues "the file is ..."."""
    return _WHY[role]


def _describe(role: FileRole, files: Sequence[NamedFile]) -> str:
    names = [_shorten(file.name) for file in files[:SHOWN_NAMES]]
    more = [f"{len(files) - SHOWN_NAMES:,} more"] if len(files) > SHOWN_NAMES else []
    total = sum(file.size for file in files)
    size = f" ({describe_bytes(total)})" if total else ""
    kinds = f" [{', '.join(_kinds(files))}]" if role is FileRole.UNSUPPORTED and more else ""
    where = f"{', '.join([*names, *more])}{kinds}"
    return f"{count_of(len(files), 'file')}{size} {is_or_are(len(files))} {_WHY[role]}: {where}."


def _kinds(files: Sequence[NamedFile]) -> Iterator[str]:
    counts = Counter(
        PurePosixPath(without_compression(file.name)).suffix or "none" for file in files
    )
    for suffix, count in counts.most_common(SHOWN_NAMES):
        yield f"{count:,} {_shorten(suffix)}"


def _shorten(name: str) -> str:
    shown = name.encode("utf-8", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)
    return shown if len(shown) <= SHOWN_NAME_CHARACTERS else f"…{shown[-SHOWN_NAME_CHARACTERS:]}"
