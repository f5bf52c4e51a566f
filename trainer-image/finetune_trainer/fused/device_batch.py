"""A micro-batch laid out on the device: what the layers and the head read of it.

Called by `engine`. Everything is made by numpy and copied without waiting, so it can be done while the
device is busy with other micro-batches.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from finetune_trainer.steps.micro_batches import IGNORED, MicroBatch, PackedRow, build_packed


@dataclass(frozen=True, kw_only=True)
class DeviceBatch(MicroBatch):
    """A micro-batch whose tensors are on the device, or on their way there."""

    input_ids: torch.Tensor
    """Shape: (tokens,)."""
    positions: torch.Tensor
    """Shape: (tokens,), int32; from 0 in each sequence."""
    ends: torch.Tensor
    """Shape: (sequences + 1,), int32; where each sequence begins, and the end of the last."""
    longest: int
    """Tokens of the longest sequence."""
    scored: torch.Tensor
    """Shape: (scored,); places that predict a supervised token."""
    targets: torch.Tensor
    """Shape: (scored,); those tokens."""


def prepare(micro_batch: MicroBatch, *, device: torch.device) -> DeviceBatch:
    """Return the micro-batch with its tensors; a prepared one as it is.

    Args:
        micro_batch: The sequences.
        device: Where the tensors are put.
    """
    if isinstance(micro_batch, DeviceBatch):
        return micro_batch
    row = build_packed(micro_batch)
    scored, targets = _find_scored(row)
    ends: NDArray[np.int32] = np.zeros(len(micro_batch.sequences) + 1, dtype=np.int32)
    np.cumsum(row.lengths.numpy(), out=ends[1:])
    return DeviceBatch(
        sequences=micro_batch.sequences,
        first_token=micro_batch.first_token,
        input_ids=_move(row.input_ids, device),
        positions=_move(row.positions, device),
        ends=_move(torch.from_numpy(ends), device),
        longest=max(micro_batch.lengths),
        scored=_move(torch.from_numpy(scored), device),
        targets=_move(torch.from_numpy(targets), device),
    )


def _find_scored(row: PackedRow) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places that predict a supervised token, and those tokens; no device waits."""
    # By numpy for the reason that `build_packed` gives.
    following = row.labels.numpy()[1:]
    scored = np.flatnonzero(following != IGNORED)
    return scored, following[scored]


def _move(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type != "cuda":
        return values
    # Pinned, so that the copy is queued like a kernel and the host goes on.
    return values.pin_memory().to(device, non_blocking=True)
