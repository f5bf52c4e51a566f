"""Which files of a folder are data, and which of them belong to the wanted split.

Pure: names in, names out, the same for a hub, a prefix in S3 and a claim. What tools leave beside
data (folder markers, README, checksums, _SUCCESS, hidden and empty files) is skipped, so that a
prefix written by Spark or synced from a laptop just works.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from finetune_text.formats import COMPRESSIONS, FORMATS, file_format
from finetune_trainer.errors import NotFound, PlanInvalid

NOT_DATA_STEMS = {"readme", "license", "notice", "changelog", "manifest", "requirements"}
NOT_DATA_NAMES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""A split and the words by which file names say it."""


@dataclass(frozen=True)
class NamedFile:
    """A file's name below its folder, and its size in bytes."""

    name: str
    size: int


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
    """The Hub's commit, where the dataset came from there."""

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


def is_data_file(file: NamedFile) -> bool:
    """Tell whether a file holds rows, by its name and size."""
    parts = PurePosixPath(file.name).parts
    if file.size == 0 or file.name.endswith("/") or not parts:
        return False
    if any(part.startswith((".", "_")) for part in parts):
        return False
    name = parts[-1].lower()
    if name in NOT_DATA_NAMES or name.split(".")[0] in NOT_DATA_STEMS:
        return False
    return file_format(name) is not None


def decide_data_files(files: Sequence[NamedFile], *, source: str, tag: str) -> tuple[str, ...]:
    """Return the names that hold rows, sorted.

    Raises:
        NotFound: None does.
    """
    names = tuple(sorted(file.name for file in files if is_data_file(file)))
    if names:
        return names
    found = f"found {len(files)} files, none of them data" if files else "found nothing there"
    raise NotFound(
        f"The dataset of {tag} at {source} has no data files ({found}): expected"
        f" {', '.join(FORMATS)}, also {' or '.join(COMPRESSIONS)}, that are not empty; correct the"
        " URI or upload the text, and apply again.",
        reason="DatasetEmpty" if files else "DatasetNotFound",
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
) -> tuple[str, ...]:
    """Return the files of a split, sorted; no script of the repository is ever run.

    Args:
        layout: Files and configurations of the repository.
        folder: Name of a configuration, a folder or a file, from the URI; empty for everything.
        splits: Names of splits, of which the first that has files is taken.
        source: URI, for messages.
        tag: Tag of the language, for messages.

    Raises:
        NotFound: No file belongs to any of the splits.
        PlanInvalid: Several configurations exist and the URI names none.
    """
    config = _decide_config(layout.configs, folder=folder, source=source)
    inside = [f for f in layout.files if _is_inside(f.name, _folder_of(config, folder=folder))]
    names = decide_data_files(inside, source=source, tag=tag)
    if names == (folder.strip("/"),):
        # The URI names this very file: whatever its name says of a split, it is meant.
        return names
    for split in splits:
        if chosen := _files_of_split(config, names, split=split):
            return _best_format(chosen)
    raise NotFound(
        f"The dataset of {tag} at {source} has no split {splits[0]!r}: found"
        f" {_enumerate_splits(config, names)}; set dataset.split to one of its splits and apply"
        " again.",
        reason="SplitNotFound",
    )


def _files_of_split(
    config: Mapping[str, object] | None, names: Sequence[str], *, split: str
) -> list[str]:
    patterns = _declared_patterns(config, split=split)
    if patterns is None:
        return _by_words(names, split=split)
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def splits_named_like(name: str) -> set[str]:
    """Return the splits whose words stand in a file's name or folders."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return {split for split, spoken in SPLIT_WORDS.items() if words & set(spoken)}


def _by_words(names: Sequence[str], *, split: str) -> list[str]:
    chosen = [name for name in names if split in splits_named_like(name)]
    if not chosen and split not in SPLIT_WORDS:
        chosen = [name for name in names if split.lower() in name.lower()]
    # Files that name no split at all are the training data.
    nameless = not any(splits_named_like(name) for name in names)
    return list(names) if not chosen and split == "train" and nameless else chosen


def _best_format(names: Sequence[str]) -> tuple[str, ...]:
    """Keep one format: the same rows often stand there twice, as Parquet and as JSON."""
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
    splits = splits or {split for name in names for split in splits_named_like(name)}
    return ", ".join(sorted(splits)) or f"{len(names)} files that name none"
