"""How much memory measuring takes of texts with very many rows, or with one very long one.

    python -m tests.bench.measure_memory [--rows 200000 1000000 2000000] [--characters 2000000]

Writes short rows, each other words of a made-up language, and measures them as the Measure pod does, each
size in a process of its own, with the tokenizer of a known family; then one row of so many characters in
the script that this tokenizer knows worst. Prints a line of JSON for each: peak memory, what of it was
there before the first row, and seconds. The bound that the pod's limit is chosen from is
`measure.MOST_ROWS`'. A figure never fails a test.
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api.plan import PlannedDataset
from finetune_text.measure import LanguageText, build_sequencer, measure_language
from finetune_text.tokenization.tokenizer import load_fast_tokenizer
from tests.demo.materials import load_declaration, load_tokenizer_folder
from tests.unit_text.texts import File

WORDS_OF_A_ROW = 8
FAMILIES = {"llama31": "amh", "gemma3": "hin"}
"""Families, and a language that they write with many tokens."""


def write_short_rows(path: Path, *, rows: int) -> None:
    """Write rows of eight words each."""
    draw = random.Random(1)
    syllables = [c + v for c in "bdfghjklmnprstvwyz" for v in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(4000)]
    with path.open("w") as file:
        for _ in range(rows):
            file.write(f'{{"text": "{" ".join(draw.choices(words, k=WORDS_OF_A_ROW))}"}}\n')


def write_long_row(path: Path, *, language: str, characters: int) -> None:
    """Write one row out of a language's words."""
    draw = random.Random(1)
    words = load_declaration(language).split()
    text = " ".join(draw.choices(words, k=characters))[:characters]
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")


def peak_mib() -> int:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure_file(path: Path, family: str) -> dict[str, Any]:
    """Measure one file; called in a process of its own."""
    tokenizer = load_fast_tokenizer(load_tokenizer_folder(family), source=family)
    sequencer = build_sequencer(tokenizer, generation={}, completion_only=True)
    text = LanguageText(PlannedDataset(tag="sw", uri=str(path)), (File(path, str(path)),))
    before, started = peak_mib(), time.monotonic()
    profile = measure_language(text, sequencer).profile
    return {
        "peakMemoryMiB": peak_mib(),
        "beforeMiB": before,
        "seconds": round(time.monotonic() - started, 1),
        "examples": profile.examples,
        "nearDuplicates": profile.near_duplicates,
        "tokens": profile.tokens,
    }


def run(path: Path, family: str) -> dict[str, Any]:
    """Measure one file in another process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_file, (path, family))


def results(asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what each file took."""
    path = folder / "rows.jsonl"
    for rows in asked.rows:
        write_short_rows(path, rows=rows)
        yield {"rows": rows, "family": "llama31", **run(path, "llama31")}
    for family, language in FAMILIES.items() if asked.characters else ():
        write_long_row(path, language=language, characters=asked.characters)
        yield {"characters": asked.characters, "family": family, **run(path, family)}


def main() -> None:
    """Measure all and print."""
    parser = argparse.ArgumentParser(description="Weigh the Measure pod.")
    parser.add_argument("--rows", type=int, nargs="*", default=[200_000, 1_000_000, 2_000_000])
    parser.add_argument("--characters", type=int, default=2_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="measure-memory-") as name:
        for result in results(asked, Path(name)):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
