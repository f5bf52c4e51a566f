"""Pods that lose their power between any two writes: the newest whole checkpoint is always resumed from."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.storage.s3_location import S3Location
from tests.unit_trainer.resuming import ORIGIN, checkpoint_files
from tests.unit_trainer.store_in_memory import PowerCut, StoreInMemory

pytestmark = [pytest.mark.torch, pytest.mark.slow]
torch = pytest.importorskip("torch")

KEEP = 2
FOLDER = "ml/tiny/checkpoints/abababab"
MEMORY = Path("/dev/shm")
"""Disks of pods: thousands of files are flushed, and what a disk keeps is not asked here."""


@dataclass(frozen=True)
class Life:
    """One pod: how many checkpoints it would write, and what happens to it."""

    checkpoints: int
    every_steps: int
    cut_at: int
    """Writes to the store until it is gone."""
    does_last: bool
    """Whether the write that was cut was done."""
    keeps_disk: bool
    """Whether the next pod finds its disk."""


LIVES = st.lists(
    st.builds(
        Life,
        checkpoints=st.integers(1, 4),
        every_steps=st.sampled_from([3, 10]),
        cut_at=st.integers(0, 40),
        does_last=st.booleans(),
        keeps_disk=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def new_disks() -> TemporaryDirectory[str]:
    return TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def places_of(store: Any, disk: Path, **origin: Any) -> Any:
    from finetune_trainer.checkpoints.places import CheckpointPlaces

    return CheckpointPlaces(store, S3Location("adapters", FOLDER), disk, replace(ORIGIN, **origin))


def snapshot_of(step: int) -> Any:
    from finetune_trainer.steps.snapshot import Snapshot

    groups = ("adapter", "optimizer", "random")
    tensors = {group: {"x": torch.tensor([float(step)])} for group in groups}
    return Snapshot(step=step, tensors=tensors, state={}, history=(), notes={})


def save(places: Any, step: int) -> None:
    """Do what `CheckpointSaver` does in its thread."""
    places.local.mkdir(parents=True, exist_ok=True)
    manifest = checkpoint_files.write_snapshot(
        snapshot_of(step), places.local, origin=places.origin, image="", now=datetime.now(UTC)
    )
    places.upload(manifest)
    places.prune(newest=step, keep=KEEP)


def whole_steps(store: StoreInMemory, *, text: str = "text") -> list[int]:
    """Return the steps of which every byte is there, by no code of ours."""
    steps = []
    for key, content in store.objects.items():
        if not key.endswith("/manifest.json"):
            continue
        manifest, folder = json.loads(content), key.removesuffix("manifest.json")
        hashes = {file["path"]: file["sha256"] for file in manifest["files"]}
        if manifest["datasets"] == [text] and all(
            hashlib.sha256(store.objects.get(f"{folder}{path}", b"")).hexdigest() == sha256
            for path, sha256 in hashes.items()
        ):
            steps.append(manifest["step"])
    return sorted(steps)


def newest(places: Any) -> int:
    found = places.find_newest(lambda _: None)
    if found is None:
        return 0
    assert found.tensors["adapter"]["x"].item() == found.step
    return int(found.step)


def live(store: StoreInMemory, disk: Path, life: Life) -> int:
    """Resume, save and be cut; return the last step that was reported as whole."""
    places = places_of(store, disk)
    store.writes_left = -1
    step = reported = newest(places)
    store.writes_left, store.does_last = life.cut_at, life.does_last
    with suppress(PowerCut):
        for _ in range(life.checkpoints):
            step += life.every_steps
            save(places, step)
            reported = step
    return reported


@settings(max_examples=200, deadline=None)
@given(LIVES)
def test_wherever_pods_are_cut_the_newest_whole_checkpoint_is_resumed_from(
    lives: list[Life],
) -> None:
    store = StoreInMemory()
    with new_disks() as folder:
        for number, life in enumerate(lives):
            disk = Path(folder) / str(number)
            reported = live(store, disk, life)
            whole = whole_steps(store)
            assert max(whole, default=0) >= reported
            # A pod on another node sees S3 alone, one on the same disk that as well.
            assert newest(places_of(store, Path(folder) / "elsewhere")) == max(whole, default=0)
            if life.keeps_disk:
                assert newest(places_of(store, disk)) >= max(whole, default=0)


@settings(max_examples=80, deadline=None)
@given(lives=LIVES, damaged=st.sets(st.integers(1, 12), max_size=4))
def test_what_was_damaged_never_pushes_out_what_is_resumed_from(
    lives: list[Life], damaged: set[int]
) -> None:
    store = StoreInMemory()
    with new_disks() as folder:
        for step in range(1, 13):
            save(places_of(store, Path(folder) / "first"), step * 10)
        for step in damaged:
            for key in [key for key in store.objects if key.startswith(f"{FOLDER}/step-{step}0/")]:
                if key.endswith("state.json"):
                    store.objects[key] = b"damaged"
        for number, life in enumerate(lives):
            reported = live(store, Path(folder) / str(number), life)
            elsewhere = places_of(store, Path(folder) / "elsewhere")
            assert newest(elsewhere) == max(whole_steps(store), default=0) >= reported


def test_checkpoints_of_a_text_that_has_changed_do_not_push_out_new_ones(tmp_path: Path) -> None:
    store = StoreInMemory()
    for step in (80, 90, 100):
        save(places_of(store, tmp_path / "old", datasets=("text of yesterday",)), step)
    new = places_of(store, tmp_path / "new")
    assert newest(new) == 0
    for step in (10, 20, 30):
        save(new, step)
        assert newest(places_of(store, tmp_path / "elsewhere")) == step
    assert whole_steps(store) == [20, 30]
    assert whole_steps(store, text="text of yesterday") == [90, 100]
    for step in range(40, 130, 10):
        save(new, step)
    assert whole_steps(store) == [110, 120]
    assert whole_steps(store, text="text of yesterday") == []
