"""File formats that hold rows, by what a name ends in. Pure; below everything else."""

from pathlib import PurePosixPath

FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".txt")
"""What can be read, best first: where a hub holds the same rows twice the first one is taken."""
COMPRESSIONS = (".gz", ".zst")


def file_format(name: str) -> str | None:
    """Return the format that a name ends in, compression aside, or None where we cannot read it."""
    path = PurePosixPath(name.lower())
    if path.suffix in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix if path.suffix in FORMATS else None
