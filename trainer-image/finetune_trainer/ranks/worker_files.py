"""What rank 0 leaves on the disk for the other ranks: the sequences, and a state to go on from.

Written below the scratch space and read by `worker_training`. The sequences are mapped into memory, so
that one copy in the page cache serves all ranks of the pod. Nothing here outlives it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from finetune_trainer.steps.micro_batches import Tokens
from finetune_trainer.steps.snapshot import ADAPTER, OPTIMIZER, Snapshot, Tensors

TRAIN, HELD_OUT = "train", "held-out"
STATE_FILE = "state.json"


@dataclass(frozen=True)
class StoredRow:
    """A sequence of a corpus on the disk."""

    input_ids: NDArray[np.int32]
    """Shape: (tokens,)."""
    labels: NDArray[np.int32]
    """Shape: (tokens,)."""
    supervised_bytes: int = 0
    """Counted by rank 0 alone."""
    source: str = ""
    """Named by rank 0 alone."""


class StoredRows(Sequence[StoredRow]):
    """Rows that lie end to end in two files."""

    def __init__(self, folder: Path, name: str) -> None:
        self._ends: NDArray[np.int64] = np.load(folder / f"{name}-ends.npy")
        # NB: "c", copy on write, not "r": torch complains of memory that it could not write to.
        self._ids = np.load(folder / f"{name}-ids.npy", mmap_mode="c")
        self._labels = np.load(folder / f"{name}-labels.npy", mmap_mode="c")

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> StoredRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[StoredRow]: ...
    def __getitem__(self, index: int | slice) -> StoredRow | Sequence[StoredRow]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        # Past the end this is the IndexError that ends an iteration.
        end = self._ends[index]
        place = slice(self._ends[index - 1] if index else 0, end)
        return StoredRow(self._ids[place], self._labels[place])


def write_corpus(folder: Path, *, train: Sequence[Tokens], held_out: Sequence[Tokens]) -> None:
    """Write both parts of the text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in ((TRAIN, train), (HELD_OUT, held_out)):
        ends = np.cumsum([len(row.input_ids) for row in rows], dtype=np.int64)
        np.save(folder / f"{name}-ends.npy", ends)
        # Empty files cannot be mapped.
        shape = (max(1, int(ends[-1])) if len(rows) else 1,)
        ids = open_memmap(folder / f"{name}-ids.npy", mode="w+", dtype=np.int32, shape=shape)
        labels = open_memmap(folder / f"{name}-labels.npy", mode="w+", dtype=np.int32, shape=shape)
        first = 0
        for row, end in zip(rows, ends, strict=True):
            ids[first:end], labels[first:end] = row.input_ids, row.labels
            first = end
        ids.flush()
        labels.flush()


def write_state(snapshot: Snapshot, folder: Path) -> None:
    """Write of a snapshot what every rank needs to go on from it."""
    folder.mkdir(parents=True, exist_ok=True)
    for group in (ADAPTER, OPTIMIZER):
        tensors = {name: value.contiguous() for name, value in snapshot.tensors[group].items()}
        save_file(tensors, folder / f"{group}.safetensors")
    (folder / STATE_FILE).write_text(json.dumps(snapshot.state["stepper"]), encoding="utf-8")


def read_state(folder: Path) -> tuple[Mapping[str, Tensors], Mapping[str, Any]]:
    """Return adapter and optimizer by group, and what the stepper keeps as JSON."""
    tensors = {group: load_file(folder / f"{group}.safetensors") for group in (ADAPTER, OPTIMIZER)}
    return tensors, json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
