"""The text of a measurement, made on the spot: the same documents for every engine, token for token.

A document is a row of made-up words, each of which the tokenizer of `model_folder` knows as one
token; so the trainer, which reads text, and the other engines, which are given token ids, see the
same sequences. Words are drawn by Zipf's law: there is something to learn, and a loss that must fall.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SPECIAL_TOKENS = ("<pad>", "<unk>", "</s>")
PAD_ID, UNKNOWN_ID, END_ID = range(3)
MEAN_TOKENS = 400
"""Mean length of a document: what the published comparisons of this project were made with."""
SIGMA = 0.8
"""Spread of the logarithm of a length; its mean lies sigma squared over two below the mean's."""
LEAST_TOKENS = 16
ZIPF_WORDS = 50_000
"""Different words at most: less than any vocabulary that is measured, but for a dry run's."""
HELD_OUT_DOCUMENTS = 4
"""Enough for the trainer to report a held-out loss, too few to take time."""


@dataclass(frozen=True)
class Corpus:
    """Documents as token ids; each ends with the end token."""

    documents: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]

    def write(self, folder: Path) -> None:
        """Write train.jsonl and held-out.jsonl as text, without the end token that a trainer adds."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, documents in (("train", self.documents), ("held-out", self.held_out)):
            lines = (json.dumps({"text": write_text(each[:-1])}) + "\n" for each in documents)
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{name}.jsonl").write_text("".join(lines), encoding="ascii")


def build_corpus(
    documents: int, *, vocabulary: int, longest: int, mean: int = MEAN_TOKENS, seed: int = 0
) -> Corpus:
    """Return `documents` documents of at most `longest` tokens and a few held-out ones."""
    draw = np.random.default_rng(seed)
    lengths = build_lengths(documents + HELD_OUT_DOCUMENTS, mean=mean, longest=longest, draw=draw)
    words = build_words(sum(lengths), vocabulary=vocabulary, draw=draw)
    made, start = [], 0
    for length in lengths:
        # The end token counts: a document of `length` tokens has one word less.
        made.append((*words[start : start + length - 1].tolist(), END_ID))
        start += length
    return Corpus(tuple(made[:documents]), tuple(made[documents:]))


def build_lengths(count: int, *, mean: int, longest: int, draw: np.random.Generator) -> list[int]:
    """Return lengths in tokens: lognormal, cut at `longest`."""
    centre = math.log(mean) - SIGMA**2 / 2
    drawn = draw.lognormal(centre, SIGMA, count)
    return [int(each) for each in np.clip(drawn, min(LEAST_TOKENS, longest), longest)]


def build_words(
    count: int, *, vocabulary: int, draw: np.random.Generator
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return token ids of words: the word of rank k is k times as rare as the first.

    Shape: (count,).
    """
    words = min(ZIPF_WORDS, vocabulary - len(SPECIAL_TOKENS))
    cumulated = np.cumsum(1.0 / np.arange(1, words + 1))
    drawn: np.ndarray[tuple[int], np.dtype[np.float64]] = draw.random(count) * cumulated[-1]
    ranks = np.asarray(np.searchsorted(cumulated, drawn), dtype=np.int64)
    return ranks + len(SPECIAL_TOKENS)


def write_text(ids: Sequence[int]) -> str:
    """Return the text whose tokens are `ids`."""
    return " ".join(f"w{each}" for each in ids)
