"""Which rank computes which sequences of a step, balanced by tokens. Pure.

Used by `distributed` for what is done and by `engines` for what will fit. Every rank computes all
shards for itself and takes its own, so nothing has to be sent.
"""

from collections.abc import Sequence
from typing import TypeVar

from finetune_trainer.steps.micro_batches import Tokens

AnyTokens = TypeVar("AnyTokens", bound=Tokens)


def shard_by_tokens(
    sequences: Sequence[AnyTokens], *, world_size: int
) -> tuple[tuple[AnyTokens, ...], ...]:
    """Return one shard a rank, of like many tokens; with few sequences some are empty.

    The longest goes first, each to the rank with the least, so that the shards also hold long and short
    sequences alike: attention makes a token of a long one dearer.
    """
    shards: list[list[AnyTokens]] = [[] for _ in range(world_size)]
    held = [0] * world_size
    for sequence in sorted(sequences, key=lambda each: len(each.input_ids), reverse=True):
        least = held.index(min(held))
        shards[least].append(sequence)
        held[least] += len(sequence.input_ids)
    return tuple(tuple(shard) for shard in shards)


def count_largest_shard(lengths: Sequence[int], *, world_size: int) -> int:
    """Return the tokens of the largest shard of sequences that have these lengths."""
    held = [0] * world_size
    for length in sorted(lengths, reverse=True):
        held[held.index(min(held))] += length
    return max(held)
