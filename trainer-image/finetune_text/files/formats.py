"""File formats that hold rows, by what a name ends in. Pure; below everything else."""

from pathlib import PurePosixPath

FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
"""Formats that can be read, best first: if a hub holds the same rows twice, the first one is taken."""
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
ALLOWED_FORMATS = (
    f"{', '.join(FORMATS)}, also with {', '.join(COMPRESSIONS[:-1])} or {COMPRESSIONS[-1]}"
)
"""The same for a message."""


def file_format(name: str) -> str | None:
    """Return the format that a name ends in, without its compression, or None if it is not read."""
    suffix = PurePosixPath(without_compression(name)).suffix
    return suffix if suffix in FORMATS else None


def without_compression(name: str) -> str:
    """Return the name in lower case without the suffix of a compression."""
    path = PurePosixPath(name.lower())
    return str(path.with_suffix("")) if path.suffix in COMPRESSIONS else str(path)
