"""Writes generated files, or says which of them are out of date.

Shared by the modules that generate something: `crd` and the resolver's page of parameters. The caller
builds the text; nothing here knows what it says.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_or_check(
    files: Mapping[Path, str], *, command: str, arguments: Sequence[str] | None
) -> int:
    """Write or check the files below the current folder; return the exit code.

    Args:
        files: path below the repository's root, and text.
        command: what a person runs to write them.
        arguments: of the command line; None reads the process' own.
    """
    parser = argparse.ArgumentParser(prog=command)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a difference"
    )
    only_check = parser.parse_args(arguments).check
    stale = [path for path, text in files.items() if _text(path) != text]
    if only_check and stale:
        sys.stderr.write(f"out of date: {', '.join(map(str, stale))}; run `{command}`\n")
        return 1
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    return 0


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
