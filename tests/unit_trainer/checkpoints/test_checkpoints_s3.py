"""Checkpoints on a real S3: what is resumed from, what is passed over, how many are kept, who waits."""

import json
import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.plan import PlannedCheckpoints
from tests.unit_trainer.conftest import Bucket, quick_backoff
from tests.unit_trainer.resuming import ORIGIN
from tests.unit_trainer.s3_proxy import S3Proxy
from tests.unit_trainer.seaweed import SeaweedFS

pytestmark = [pytest.mark.torch, pytest.mark.slow]
torch = pytest.importorskip("torch")

PREFIX = "adapters/ml/tiny/checkpoints/abababab"
WHOLE = 30.0
"""Seconds in which a tiny checkpoint is surely over."""


def snapshot_of(step: int, *, value: float = 0.0) -> Any:
    from finetune_trainer.steps.snapshot import Snapshot

    tensor = torch.full((3,), float(step) + value)
    groups = ("adapter", "optimizer", "random")
    return Snapshot(
        step=step,
        tensors={group: {"x": tensor.clone()} for group in groups},
        state={"rows": 1},
        history=(),
        notes={},
    )


def taking(step: int) -> Callable[..., Any]:
    return lambda *, reuse=False: snapshot_of(step)


def places_in(bucket: Bucket, folder: Path, **changes: Any) -> Any:
    from finetune_trainer.checkpoints.places import CheckpointPlaces

    return CheckpointPlaces(
        bucket.store, bucket.at(PREFIX), folder / "checkpoints", replace(ORIGIN, **changes)
    )


class Saver:
    """A CheckpointSaver that keeps what it reports."""

    def __init__(self, places: Any, **plan: Any) -> None:
        from finetune_trainer.checkpoints.saver import CheckpointSaver

        self.now = 0.0
        self.reported: list[SavedCheckpoint] = []
        self.checkpoints = CheckpointSaver(
            places,
            plan=PlannedCheckpoints(**{"every_steps": 1, "every_seconds": None} | plan),
            tell=lambda saved, _: self.reported.append(saved),
            clock=lambda: self.now,
        )

    def save(self, *steps: int) -> None:
        for step in steps:
            self.checkpoints.offer(step, taking(step))
            self.checkpoints.wait(WHOLE)


@pytest.fixture
def forget(tmp_path: Path) -> Callable[[], None]:
    """Return what makes a new pod: its disk is empty."""
    return lambda: shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)


def newest_step(places: Any) -> int | None:
    found = places.find_newest(lambda _: None)
    return None if found is None else found.step


def keys(bucket: Bucket) -> list[str]:
    found = (each.location.key for each in bucket.store.list(bucket.at(f"{PREFIX}/")))
    return sorted(key.removeprefix(f"{PREFIX}/") for key in found)


def test_what_is_saved_is_what_another_pod_finds(
    bucket: Bucket, tmp_path: Path, forget: Callable[[], None]
) -> None:
    saver = Saver(places_in(bucket, tmp_path))
    saver.save(7)
    [saved] = saver.reported
    assert (saved.step, saved.uri) == (7, f"s3://{bucket.name}/{PREFIX}/step-7/")
    forget()
    places = places_in(bucket, tmp_path)
    found = places.find_newest(lambda _: None)
    assert found.tensors["optimizer"]["x"].tolist() == [7.0, 7.0, 7.0]
    assert places.describe(7) == saved
    assert not any(key.endswith((".pt", ".bin", ".pkl")) for key in keys(bucket))


def test_the_newest_two_are_kept(bucket: Bucket, tmp_path: Path) -> None:
    Saver(places_in(bucket, tmp_path)).save(1, 2, 3, 4)
    assert {key.partition("/")[0] for key in keys(bucket)} == {"step-3", "step-4"}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-4"]


def test_checkpoints_of_a_plan_come_by_time_or_steps_whichever_is_first(
    bucket: Bucket, tmp_path: Path
) -> None:
    saver = Saver(places_in(bucket, tmp_path), every_steps=3, every_seconds=100)
    saver.save(1, 2, 3, 4)
    saver.now = 99.0
    saver.save(5)
    saver.now = 100.0
    saver.save(5, 6)
    assert [saved.step for saved in saver.reported] == [3, 5]


def listed_file(bucket: Bucket, step: int, name: str) -> str:
    return next(
        f"{PREFIX}/{key}"
        for key in keys(bucket)
        if key.startswith(f"step-{step}/") and key.endswith(name)
    )


def change_manifest(bucket: Bucket, change: dict[str, Any]) -> None:
    location = bucket.at(f"{PREFIX}/step-2/manifest.json")
    read = bucket.store.read(location)
    assert read is not None
    bucket.store.put(location, json.dumps(json.loads(read[0]) | change).encode())


DAMAGES: dict[str, tuple[Callable[[Bucket], object], str]] = {
    "a file is gone": (
        lambda bucket: bucket.store.delete(
            [bucket.at(listed_file(bucket, 2, "adapter.safetensors"))]
        ),
        "does not exist",
    ),
    "a file is cut": (
        lambda bucket: bucket.put(listed_file(bucket, 2, "optimizer.safetensors"), b"cut"),
        "optimizer.safetensors was changed or cut",
    ),
    "a file was tampered with": (
        lambda bucket: bucket.put(listed_file(bucket, 2, "state.json"), b'{"state": {}}'),
        "state.json was changed or cut",
    ),
    "the manifest is cut": (
        lambda bucket: bucket.put(f"{PREFIX}/step-2/manifest.json", b'{"planHash":'),
        "its manifest cannot be read",
    ),
    "the manifest is of another release": (
        lambda bucket: change_manifest(bucket, {"schemaVersion": 2}),
        "its manifest cannot be read",
    ),
    "another plan whose hash begins alike": (
        lambda bucket: change_manifest(bucket, {"planHash": "ab" * 31 + "cd"}),
        "it is of another plan",
    ),
    "another resource": (
        lambda bucket: change_manifest(bucket, {"name": "twin"}),
        "it is of another resource",
    ),
    "another model": (
        lambda bucket: change_manifest(bucket, {"modelRevision": "moved on"}),
        "it is of another revision of the model",
    ),
    "another text": (
        lambda bucket: change_manifest(bucket, {"datasets": ["changed"]}),
        "it is of another state of the text",
    ),
    "a folder of another name": (
        lambda bucket: change_manifest(bucket, {"step": 9}),
        "its manifest is of step 9",
    ),
    "the manifest leaves its folder": (
        lambda bucket: change_manifest(
            bucket, {"files": [{"path": "../../../x.json", "sha256": "0" * 64, "bytes": 0}]}
        ),
        "its manifest names files that no checkpoint holds",
    ),
    "the manifest lists nothing": (
        lambda bucket: change_manifest(bucket, {"files": []}),
        "its manifest lacks files",
    ),
}


@pytest.mark.parametrize(("damage", "why"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_bad_checkpoint_is_passed_over_with_a_warning_for_the_next_older_one(
    bucket: Bucket,
    tmp_path: Path,
    forget: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Bucket], object],
    why: str,
) -> None:
    Saver(places_in(bucket, tmp_path)).save(1, 2)
    forget()
    damage(bucket)
    assert newest_step(places_in(bucket, tmp_path)) == 1
    [warning] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert warning.message == "A checkpoint is passed over"
    assert why in warning.__dict__["why"]


def test_a_checkpoint_without_a_manifest_is_none(
    bucket: Bucket, tmp_path: Path, forget: Callable[[], None]
) -> None:
    Saver(places_in(bucket, tmp_path)).save(1, 2)
    forget()
    bucket.store.delete([bucket.at(f"{PREFIX}/step-2/manifest.json")])
    assert newest_step(places_in(bucket, tmp_path)) == 1
    bucket.store.delete([bucket.at(f"{PREFIX}/step-1/manifest.json")])
    assert newest_step(places_in(bucket, tmp_path)) is None


def test_what_is_of_another_training_is_passed_over(bucket: Bucket, tmp_path: Path) -> None:
    Saver(places_in(bucket, tmp_path)).save(1, 2)
    found = places_in(bucket, tmp_path).find_newest(
        lambda snapshot: "its adapter has other tensors" if snapshot.step == 2 else None
    )
    assert found.step == 1


def test_the_disk_of_a_pod_is_asked_first_and_stands_in_for_s3(
    bucket: Bucket, tmp_path: Path
) -> None:
    places = places_in(bucket, tmp_path)
    Saver(places).save(1)
    saver = Saver(places)
    saver.checkpoints.keep_local(taking(5))
    assert newest_step(places) == 5
    assert saver.reported == []


def test_a_busy_store_is_waited_for_and_a_dead_one_costs_a_checkpoint_and_no_training(
    bucket: Bucket, proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    saver = Saver(places_in(proxied, tmp_path))
    proxy.behaviour.busy = 6
    saver.save(1)
    proxy.behaviour.busy = 100_000
    saver.save(2)
    assert [saved.step for saved in saver.reported] == [1]
    proxy.behaviour.busy = 0
    saver.save(3)
    assert [saved.step for saved in saver.reported] == [1, 3]


def test_a_store_that_keeps_nothing_leaves_the_older_checkpoint(
    bucket: Bucket, proxied: Bucket, proxy: S3Proxy, tmp_path: Path, forget: Callable[[], None]
) -> None:
    saver = Saver(places_in(proxied, tmp_path))
    saver.save(1)
    proxy.behaviour.forget_uploads = 100
    saver.save(2)
    proxy.behaviour.forget_uploads = 0
    forget()
    assert newest_step(places_in(bucket, tmp_path)) == 1


def test_a_store_that_is_killed_in_an_upload_is_waited_for(
    seaweed_of_ones_own: SeaweedFS, tmp_path: Path
) -> None:
    from tests.unit_trainer.conftest import make_bucket

    server = seaweed_of_ones_own
    bucket = make_bucket(server.endpoint)
    back = threading.Event()

    def sleep(_: float) -> None:
        if not back.is_set():
            server.start()
            back.set()

    store = bucket.store.with_backoff(replace(quick_backoff(), sleep=sleep))
    places = replace(places_in(bucket, tmp_path), store=store)
    saver = Saver(places)
    saver.save(1)
    server.kill()
    saver.save(2)
    assert back.is_set()
    assert [saved.step for saved in saver.reported] == [1, 2]


def test_nobody_resumes_from_nothing_because_a_store_does_not_answer(
    proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    from finetune_trainer.errors import ServiceUnavailable

    proxy.behaviour.busy = 100_000
    with pytest.raises(ServiceUnavailable):
        newest_step(places_in(proxied, tmp_path))


def test_a_disk_that_takes_nothing_costs_a_checkpoint_and_no_training(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = places_in(bucket, tmp_path)
    (tmp_path / "checkpoints").write_text("no folder can be made here")
    saver = Saver(places)
    saver.save(1)
    assert saver.reported == []
    assert "A checkpoint failed; the training goes on and the next one tries again" in [
        each.message for each in caplog.records
    ]


def test_training_does_not_wait_for_an_upload_and_the_next_checkpoint_does(
    bucket: Bucket, tmp_path: Path
) -> None:
    may_go = threading.Event()

    class Slow(type(bucket.store)):  # type: ignore[misc]
        def put(self, *args: Any, **options: Any) -> str:
            may_go.wait(WHOLE)
            return str(super().put(*args, **options))

    slow = Slow(bucket.store._client, subject="the output", backoff=quick_backoff())
    saver = Saver(replace(places_in(bucket, tmp_path), store=slow))
    for step in (1, 2, 3):
        saver.checkpoints.offer(step, taking(step))
    assert saver.reported == []
    may_go.set()
    saver.checkpoints.wait(WHOLE)
    saver.save(4)
    assert [saved.step for saved in saver.reported] == [1, 4]


def test_a_pod_that_must_go_says_what_it_could_save(
    bucket: Bucket, proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    saver = Saver(places_in(proxied, tmp_path), every_steps=100)
    assert saver.checkpoints.keep_last(4, taking(4), within_s=WHOLE) == 4
    # Nothing new: nothing is sent.
    sent = len(proxy.behaviour.seen)
    assert saver.checkpoints.keep_last(4, taking(4), within_s=WHOLE) == 4
    assert len(proxy.behaviour.seen) == sent
    proxy.behaviour.busy = 100_000
    assert saver.checkpoints.keep_last(9, taking(9), within_s=WHOLE) == 4


def test_a_checkpoint_that_is_under_way_is_waited_for_and_not_begun_again(
    bucket: Bucket, proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    saver = Saver(places_in(proxied, tmp_path))

    def hang_once() -> None:
        proxy.behaviour.hang_method = ""
        threading.Timer(0.5, proxy.behaviour.may_answer.set).start()

    proxy.behaviour.on_hang = hang_once
    proxy.behaviour.hang_method, proxy.behaviour.hang_key = "PUT", "adapter.safetensors"
    saver.checkpoints.offer(7, taking(7))
    assert saver.checkpoints.keep_last(7, taking(7), within_s=WHOLE) == 7
    assert [saved.step for saved in saver.reported] == [7]
    assert len([key for key in keys(bucket) if key.endswith("adapter.safetensors")]) == 1


def test_what_is_in_s3_needs_no_time_to_be_saved(bucket: Bucket, tmp_path: Path) -> None:
    saver = Saver(places_in(bucket, tmp_path))
    assert saver.checkpoints.reserve_for(3) is None
    saver.save(3)
    assert saver.checkpoints.reserve_for(3) == 0.0
    assert saver.checkpoints.reserve_for(4) == saver.checkpoints.reserve_s


def test_two_pods_that_write_the_same_step_never_share_a_file(
    bucket: Bucket, tmp_path: Path, forget: Callable[[], None]
) -> None:
    first, second = (places_in(bucket, tmp_path / name) for name in ("a", "b"))
    Saver(first).save(3)
    Saver(second).save(3)
    assert len([key for key in keys(bucket) if key.endswith("adapter.safetensors")]) == 2
    forget()
    assert newest_step(places_in(bucket, tmp_path)) == 3
