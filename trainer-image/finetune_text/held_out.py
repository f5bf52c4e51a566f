"""Which rows are held out: chosen by their content, never by where they stand.

Pure. The same data always splits the same way, in whatever order, and equal rows stay on one side.
"""

import hashlib
from collections.abc import Sequence

from finetune_text.examples import Example

HASH_BYTES = 16
"""Of a row's content: two of a billion rows meet with a chance of 1 in 10^20."""


def decide_evaluated(hashes: Sequence[bytes], *, max_examples: int) -> frozenset[bytes]:
    """Return which contents of a held-out dataset are evaluated: all, or the smallest hashes."""
    if len(hashes) <= max_examples:
        return frozenset(hashes)
    # One content alone, however often it stands there, is evaluated too.
    return decide_held_out(hashes, fraction=1.0, max_examples=max_examples) or frozenset(hashes)


def decide_held_out(
    hashes: Sequence[bytes], *, fraction: float, max_examples: int
) -> frozenset[bytes]:
    """Return which contents are held out: the ones with the smallest hashes.

    At least one content and never all; at most `max_examples` rows, unless the first content alone
    has more copies.
    """
    copies: dict[bytes, int] = {}
    for each in hashes:
        copies[each] = copies.get(each, 0) + 1
    wanted = min(max(1, round(len(hashes) * fraction)), max_examples)
    chosen: set[bytes] = set()
    rows = 0
    for each in sorted(copies)[:-1]:
        if rows == wanted:
            break
        if not chosen or rows + copies[each] <= wanted:
            chosen.add(each)
            rows += copies[each]
    return frozenset(chosen)


def hash_example(example: Example) -> bytes:
    """Return a hash of the content alone, not of where it stands."""
    return hashlib.sha256(example.canonical().encode()).digest()[:HASH_BYTES]
