"""Which files of a dataset are fetched: the census of `finetune_text.files`, with the trainer's errors.

Pure: names in, a census out, the same for a hub, a prefix in S3 and a claim.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from finetune_text.files.census import (
    FileCensus,
    FileRole,
    NamedFile,
    is_data_file,
    take_census,
    take_listed_census,
)
from finetune_text.files.formats import ALLOWED_FORMATS, FORMATS, file_format
from finetune_text.files.splits import SPLIT_WORDS, TRAIN, split_of
from finetune_trainer.errors import NotFound, PlanInvalid

__all__ = [
    "DataFile",
    "FetchedDataset",
    "FileCensus",
    "FileRole",
    "HubLayout",
    "NamedFile",
    "is_data_file",
]

SHOWN_LANGUAGES = 12
"""Languages of a repository that a message lists."""


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset on the disk."""

    path: Path
    source: str
    """URI of the file, for messages."""
    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class FetchedDataset:
    """The files of one language."""

    train: tuple[DataFile, ...]
    validation: tuple[DataFile, ...]
    """Empty where the held-out part is a fraction of `train`."""
    revision: str = ""
    """The Hub's commit, if the dataset came from there."""
    census: FileCensus = field(default_factory=FileCensus)
    """Every file below the URI, and what becomes of it."""
    root: str = ""
    """URI that the names in the census are relative to."""

    @property
    def sha256(self) -> str:
        """Hash over the contents of all files, for the manifest."""
        return hash_contents((file.path.name, file.sha256) for file in self.train + self.validation)


def hash_contents(entries: Iterable[tuple[str, str]]) -> str:
    """Return one hash over names and hashes, the same for the same files in every place."""
    digest = hashlib.sha256()
    for name, sha256 in sorted(entries):
        digest.update(f"{name}\0{sha256}\n".encode())
    return digest.hexdigest()


def decide_data_files(
    files: Sequence[NamedFile], *, source: str, tag: str, splits: Sequence[str] = (TRAIN,)
) -> FileCensus:
    """Return the census of a folder in a store or a claim.

    Args:
        files: Every file below the URI.
        source: URI, for messages.
        tag: Tag of the language.
        splits: Splits in order of preference, of which the first that has files is read.

    Raises:
        NotFound: No file is left to read.
        PlanInvalid: The files are those of several languages, and none is the tag's.
    """
    census = take_census(files, splits=splits, tag=tag)
    _check_language(census, source=source, tag=tag)
    if census.read:
        return census
    held_out = [*census.of(FileRole.VALIDATION), *census.of(FileRole.TEST)]
    others = held_out or list(census.of(FileRole.OTHER_SPLIT))
    if others:
        names = ", ".join(file.name for file in others[:SHOWN_LANGUAGES])
        raise NotFound(
            f"The dataset of {tag} at {source} has no file of the split {splits[0]!r}: found {names};"
            " name the file itself in the URI if it is meant, and apply again.",
            reason="SplitNotFound",
        )
    raise NotFound(
        _describe_nothing(files, census, source=source, tag=tag),
        reason="DatasetEmpty" if files else "DatasetNotFound",
    )


def _describe_nothing(
    files: Sequence[NamedFile], census: FileCensus, *, source: str, tag: str
) -> str:
    found = f"found {len(files)} files, none of them data" if files else "found nothing there"
    unread = " ".join(census.describe())
    return (
        f"The dataset of {tag} at {source} has no data files ({found}): expected {ALLOWED_FORMATS},"
        " that are not empty; correct the URI or upload the text, and apply again."
        + (f" {unread}" if unread else "")
    )


def _check_language(census: FileCensus, *, source: str, tag: str) -> None:
    if not census.languages or census.read:
        return
    shown = ", ".join(census.languages[:SHOWN_LANGUAGES])
    more = len(census.languages) - SHOWN_LANGUAGES
    raise PlanInvalid(
        f"The dataset of {tag} at {source} holds several languages and none is {tag} by its name:"
        f" found {shown}{f' and {more} more' if more > 0 else ''}; set dataset.uri to the folder or file"
        f" of {tag} and apply again.",
        reason="DatasetConfigNeeded",
    )


# --- Splits of a hub's dataset ------------------------------------------------------------------


@dataclass(frozen=True)
class HubLayout:
    """What a dataset repository holds: its files, and the configurations that its card declares."""

    files: tuple[NamedFile, ...]
    configs: tuple[Mapping[str, object], ...] = ()
    """The card's `configs`: `config_name`, `data_files`, `data_dir`, `default`."""


def decide_split_files(
    layout: HubLayout, *, folder: str, splits: Sequence[str], source: str, tag: str
) -> FileCensus:
    """Return the census of a hub's dataset with the files of one split; no script of it is ever run.

    Args:
        layout: Files and configurations of the repository.
        folder: Name of a configuration, a folder or a file, from the URI; empty for everything.
        splits: Names of splits, of which the first that has files is read.
        source: URI, for messages.
        tag: Tag of the language.

    Raises:
        NotFound: No file belongs to any of the splits.
        PlanInvalid: Several configurations or languages exist and the URI names none.
    """
    config = _decide_config(layout.configs, folder=folder, source=source)
    inside = [f for f in layout.files if _is_inside(f.name, _folder_of(config, folder=folder))]
    names = tuple(sorted(file.name for file in inside if is_data_file(file)))
    if not names:
        return decide_data_files(inside, source=source, tag=tag)
    if names == (folder.strip("/"),):
        # The URI names this very file, so the split that its name states does not matter.
        return take_listed_census(inside, chosen=names, tag=tag, choose_language=False)
    for split in splits:
        if chosen := _files_of_split(config, names, split=split):
            return _build_hub_census(inside, chosen, config=config, source=source, tag=tag)
    raise NotFound(
        f"The dataset of {tag} at {source} has no split {splits[0]!r}: found"
        f" {_enumerate_splits(config, names)}; set dataset.split to one of its splits and apply"
        " again.",
        reason="SplitNotFound",
    )


def _build_hub_census(
    files: Sequence[NamedFile],
    chosen: Sequence[str],
    *,
    config: Mapping[str, object] | None,
    source: str,
    tag: str,
) -> FileCensus:
    # A configuration of the card names its files, and what they are is stated there.
    is_declared = bool(config is not None and config.get("data_files"))
    census = take_listed_census(files, chosen=chosen, tag=tag, choose_language=not is_declared)
    _check_language(census, source=source, tag=tag)
    dropped = set(census.read) - set(_best_format(census.read))
    return census.with_role(dropped, FileRole.OTHER_FORM)


def _files_of_split(
    config: Mapping[str, object] | None, names: Sequence[str], *, split: str
) -> list[str]:
    patterns = _declared_patterns(config, split=split)
    if patterns is None:
        return _by_words(names, split=split)
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def _by_words(names: Sequence[str], *, split: str) -> list[str]:
    chosen = [name for name in names if split_of(name) == split]
    if not chosen and split not in SPLIT_WORDS:
        chosen = [name for name in names if split.lower() in name.lower()]
    # Files that state no split at all are the training data.
    nameless = not any(split_of(name) == TRAIN for name in names)
    return (
        [n for n in names if not split_of(n)]
        if not chosen and split == TRAIN and nameless
        else chosen
    )


def _best_format(names: Sequence[str]) -> tuple[str, ...]:
    """Keep one format: the same rows are often there twice, as Parquet and as JSON."""
    counts = Counter(file_format(name) for name in names)
    best = max(counts, key=lambda kind: (counts[kind], -FORMATS.index(str(kind))))
    return tuple(sorted(name for name in names if file_format(name) == best))


def _decide_config(
    configs: Sequence[Mapping[str, object]], *, folder: str, source: str
) -> Mapping[str, object] | None:
    if not configs:
        return None
    if folder:
        named = (config for config in configs if config.get("config_name") == folder)
        return next(named, None)
    marked = [config for config in configs if config.get("default") is True]
    marked = marked or [config for config in configs if config.get("config_name") == "default"]
    if marked or len(configs) == 1:
        return (marked or list(configs))[0]
    names = [str(config.get("config_name")) for config in configs]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    raise PlanInvalid(
        f"The dataset at {source} has {len(names)} configurations and the URI names none: expected"
        f" {source}/<configuration> with one of {shown}; correct dataset.uri and apply again.",
        reason="DatasetConfigNeeded",
    )


def _folder_of(config: Mapping[str, object] | None, *, folder: str) -> str:
    if config is None:
        return folder
    return str(config.get("data_dir") or "")


def _is_inside(name: str, folder: str) -> bool:
    wanted = folder.strip("/")
    return not wanted or name == wanted or name.startswith(f"{wanted}/")


def _declared_patterns(config: Mapping[str, object] | None, *, split: str) -> list[str] | None:
    """Return the card's patterns for the split, or None where it declares no data files.

    The card writes one path, a list of paths, or a list of `{split, path}`.
    """
    declared = config.get("data_files") if config is not None else None
    if not declared:
        return None
    entries = declared if isinstance(declared, list) else [declared]
    patterns: list[str] = []
    for entry in entries:
        of_split = entry.get("split") if isinstance(entry, Mapping) else "train"
        path = entry.get("path") if isinstance(entry, Mapping) else entry
        if of_split == split:
            patterns += [str(each) for each in (path if isinstance(path, list) else [path])]
    return [pattern.replace("**/", "*") for pattern in patterns]


def _enumerate_splits(config: Mapping[str, object] | None, names: Sequence[str]) -> str:
    declared = config.get("data_files") if config is not None else None
    entries = declared if isinstance(declared, list) else []
    splits = {str(entry.get("split")) for entry in entries if isinstance(entry, Mapping)}
    splits = splits or {split for name in names if (split := split_of(name))}
    return ", ".join(sorted(splits)) or f"{len(names)} files that name none"
