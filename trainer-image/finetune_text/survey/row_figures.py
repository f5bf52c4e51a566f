"""The figures of one row: how long it is, what of it is learned, and how much text that is.

Between `sequences`, whose tokens and labels these are, and `measure`, which sums them up. Nothing is
cut here: what a length would cut is counted from the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_text.rows.examples import Example
from finetune_text.tokenization.sequences import IGNORED, Encoded, Sequencer, Written
from finetune_text.tokenization.tally import Tally


@dataclass(frozen=True)
class RowFigures:
    """One row, uncut."""

    length: int
    """Tokens, chat template and stop token included."""
    supervised: int
    """Tokens that carry loss; the first of a sequence is never predicted."""
    first_supervised: int
    """Place of the first of them, from 0; `length` where there is none."""
    answers: NDArray[np.int64]
    """Shape: (answers, 2). First token of each unbroken run of tokens that carry loss, and the one after
    its last."""
    characters: int
    """Of the text that is learned, without what ends a turn."""
    text_bytes: int
    """UTF-8 bytes of that text."""
    text_tokens: int
    """Tokens of that text."""


def weigh_rows(
    sequencer: Sequencer, examples: Sequence[Example], tally: Tally
) -> Iterator[RowFigures | None]:
    """Yield the figures of each example, in order; None where the chat template does not take it.

    Raises:
        TextInvalid: A chat, and the tokenizer has no chat template.
    """
    written = [sequencer.write(example, tally) for example in examples]
    known = [each for each in written if each is not None]
    figures = (
        _weigh(each, encoded, labels)
        for each, (encoded, labels) in zip(known, sequencer.encode(known), strict=True)
    )
    for each in written:
        yield None if each is None else next(figures)


def _weigh(written: Written, encoded: Encoded, labels: NDArray[np.int32]) -> RowFigures:
    learned: NDArray[np.int64] = np.flatnonzero(labels[1:] != IGNORED) + 1
    said = [written.text[span.start : span.end] for span in written.said]
    starts, ends = encoded.offsets[:, 0], encoded.offsets[:, 1]
    # What has no width is no text: a BOS, or the stop token that was appended.
    starts = starts[starts < ends]
    inside = ((starts >= span.start) & (starts < span.end) for span in written.said)
    return RowFigures(
        length=len(labels),
        supervised=len(learned),
        first_supervised=int(learned[0]) if len(learned) else len(labels),
        answers=_find_runs(learned),
        characters=sum(len(part) for part in said),
        text_bytes=sum(len(part.encode()) for part in said),
        text_tokens=sum(int(each.sum()) for each in inside),
    )


def _find_runs(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the unbroken runs of ascending places: shape (runs, 2), first and one after the last."""
    if not len(places):
        return np.empty((0, 2), dtype=np.int64)
    breaks = np.flatnonzero(np.diff(places) > 1)
    firsts = places[np.concatenate(([0], breaks + 1))]
    lasts = places[np.concatenate((breaks, [len(places) - 1]))]
    return np.stack([firsts, lasts + 1], axis=1)
