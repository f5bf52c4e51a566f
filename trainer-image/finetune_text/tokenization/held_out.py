"""Which rows are held out: chosen by their content, never by where they stand.

Pure. The same data always splits the same way, in whatever order, and equal rows stay on one side.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from finetune_text.rows.examples import Example

HASH_BYTES = 16
"""Of a row's content: two of a billion rows meet with a chance of 1 in 10^20."""
HASH_TYPE = np.dtype(f"S{HASH_BYTES}")

Hashes: TypeAlias = Sequence[bytes] | NDArray[np.bytes_]
"""Of contents; as an array 16 bytes each, and 57 otherwise."""


def decide_evaluated(hashes: Hashes, *, max_examples: int) -> frozenset[bytes]:
    """Return which contents of a held-out dataset are evaluated: all, or the smallest hashes."""
    if len(hashes) <= max_examples:
        return frozenset(map(_whole, hashes))
    # One content alone, however often it stands there, is evaluated too.
    chosen = decide_held_out(hashes, fraction=1.0, max_examples=max_examples)
    return chosen or frozenset([_whole(hashes[0])])


def decide_held_out(hashes: Hashes, *, fraction: float, max_examples: int) -> frozenset[bytes]:
    """Return which contents are held out: the ones with the smallest hashes.

    At least one content and never all; at most `max_examples` rows, unless the first content alone
    has more copies.
    """
    ordered, copies = np.unique(np.asarray(hashes, dtype=HASH_TYPE), return_counts=True)
    wanted = min(max(1, round(len(hashes) * fraction)), max_examples)
    chosen: set[bytes] = set()
    rows = 0
    for each, count in zip(ordered[:-1], copies[:-1], strict=True):
        if rows == wanted:
            break
        if not chosen or rows + count <= wanted:
            chosen.add(_whole(each))
            rows += int(count)
    return frozenset(chosen)


def _whole(content: bytes) -> bytes:
    # numpy drops zero bytes at the end.
    return content.ljust(HASH_BYTES, b"\0")


def hash_example(example: Example) -> bytes:
    """Return a hash of the content alone, not of where it stands."""
    return hashlib.sha256(example.canonical().encode()).digest()[:HASH_BYTES]
