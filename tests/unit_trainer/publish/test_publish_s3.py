"""Publishing: what a reader trusts is whole, whatever happens on the way."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import NotFound, OutputUnwritable, PlanInvalid, TrainerError
from finetune_trainer.publish.publish import AdapterManifest, OutputPlace, find_finished, publish
from finetune_trainer.publish.run_record import RunRecord
from finetune_trainer.storage.s3 import connect
from finetune_trainer.storage.s3_location import parse_s3_uri
from tests.unit_trainer.conftest import Bucket, build_credentials, quick_backoff
from tests.unit_trainer.publish.test_export_folder import build_record
from tests.unit_trainer.s3_proxy import S3Proxy
from tests.unit_trainer.tiny import build_plan

# On a real SeaweedFS: seconds of starting and stopping.
pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    contents = {
        "adapter_config.json": b'{"r": 8}\n',
        "adapter_model.safetensors": bytes(range(256)) * 100,
        "README.md": b"# tiny\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def place_in(bucket: Bucket, plan: Any = None) -> OutputPlace:
    return OutputPlace.of(plan or build_plan(), bucket.at("adapters"))


def keys(bucket: Bucket) -> set[str]:
    return {each.location.key for each in bucket.store.list(bucket.at(""))}


def read_json(bucket: Bucket, key: str) -> Any:
    read = bucket.store.read(bucket.at(key))
    assert read is not None
    return json.loads(read[0])


def test_the_manifest_lists_what_is_there_and_the_pointer_names_it(
    bucket: Bucket, files: list[Path]
) -> None:
    account = build_record()
    published = publish(bucket.store, place_in(bucket), account, files=files)
    folder = f"adapters/ml/tiny/runs/1-{account.plan.hash[:8]}"
    assert published.uri == f"s3://{bucket.name}/{folder}/"
    assert (published.files, published.size_bytes) == (3, 9 + 25600 + 7)
    manifest = read_json(bucket, f"{folder}/manifest.json")
    assert {file["path"]: file["bytes"] for file in manifest["files"]} == {
        "adapter_config.json": 9,
        "adapter_model.safetensors": 25600,
        "README.md": 7,
    }
    assert manifest["planHash"] == account.plan.hash
    assert (manifest["model"], manifest["modelRevision"]) == (
        "hf://org/tiny",
        account.model_revision,
    )
    assert manifest["environment"]["image"] == "registry/trainer@sha256:1"
    assert read_json(bucket, "adapters/ml/tiny/latest.json") == {
        "schemaVersion": 1,
        "run": 1,
        "manifest": f"runs/1-{account.plan.hash[:8]}/manifest.json",
        "manifestSha256": published.manifest_sha256,
        "planHash": account.plan.hash,
    }


def test_a_finished_run_is_found_by_its_plan_whatever_its_number(
    bucket: Bucket, files: list[Path]
) -> None:
    account = build_record()
    published = publish(bucket.store, place_in(bucket), account, files=files)
    restored = build_plan(identity__run=7, identity__uid="another", decisions=[])
    found = find_finished(bucket.store, place_in(bucket, restored), restored)
    assert found is not None
    assert found.published == published.model_copy(update={"already_there": True})
    assert found.manifest.evaluation == account.evaluation


def cut_at(step: int, *, deadline_s: int) -> RunRecord:
    """Return the account of a run that its deadline ended after a step."""
    account = build_record()
    changes = {"steps": step, "published_step": step, "deadline_seconds": deadline_s}
    return replace(account, summary=account.summary.model_copy(update=changes))


@pytest.mark.parametrize(
    ("deadline_s", "found_step"),
    [(None, None), (60, 30), (90, 30), (100, 20), (101, None)],
    ids=["none", "shorter", "the same", "longer than the last", "longer than all"],
)
def test_what_a_deadline_ended_counts_for_a_run_of_no_longer_a_deadline(
    bucket: Bucket, files: list[Path], deadline_s: int | None, found_step: int | None
) -> None:
    for account in (cut_at(20, deadline_s=100), cut_at(30, deadline_s=90)):
        place = place_in(bucket).cut_short(account.summary.steps)
        publish(bucket.store, place, account, files=files)
    found = find_finished(bucket.store, place_in(bucket), build_plan(), deadline_s=deadline_s)
    assert (found.manifest.summary.steps if found else None) == found_step


def test_a_whole_run_comes_before_what_a_deadline_ended(bucket: Bucket, files: list[Path]) -> None:
    cut = cut_at(20, deadline_s=100)
    publish(bucket.store, place_in(bucket).cut_short(20), cut, files=files)
    whole = publish(bucket.store, place_in(bucket), build_record(), files=files)
    found = find_finished(bucket.store, place_in(bucket), build_plan(), deadline_s=100)
    assert found is not None
    assert (found.published.uri, found.manifest.reason) == (whole.uri, "Done")


def test_what_a_deadline_ended_has_a_folder_of_its_own_and_says_so(
    bucket: Bucket, files: list[Path]
) -> None:
    account = cut_at(20, deadline_s=100)
    published = publish(bucket.store, place_in(bucket).cut_short(20), account, files=files)
    folder = f"adapters/ml/tiny/runs/1-{account.plan.hash[:8]}-step-20"
    assert published.uri == f"s3://{bucket.name}/{folder}/"
    manifest = read_json(bucket, f"{folder}/manifest.json")
    assert (manifest["reason"], manifest["summary"]["deadlineSeconds"]) == (
        "PublishedAtDeadline",
        100,
    )


def count_reads(proxy: S3Proxy) -> int:
    return sum(method == "GET" for method, _ in proxy.behaviour.seen)


def test_a_finished_run_is_found_without_reading_its_files_again(
    bucket: Bucket, proxied: Bucket, proxy: S3Proxy, files: list[Path]
) -> None:
    place = place_in(proxied)
    publish(bucket.store, place, build_record(), files=files)
    assert find_finished(proxied.store, place, build_plan()) is not None
    # The list, the manifest, the pointer.
    assert count_reads(proxy) == 3

    # In a copy of the bucket, or of an older release, the store's word for the bytes is unknown.
    change_manifest(bucket, place, forget_etags)
    proxy.behaviour.seen.clear()
    assert find_finished(proxied.store, place, build_plan()) is not None
    assert count_reads(proxy) == 3 + len(files)


def test_another_plan_does_not_find_it(bucket: Bucket, files: list[Path]) -> None:
    publish(bucket.store, place_in(bucket), build_record(), files=files)
    other = build_plan(training__seed=43)
    assert find_finished(bucket.store, place_in(bucket, other), other) is None


def change_manifest(bucket: Bucket, place: OutputPlace, change: Callable[[Any], None]) -> None:
    location = place.folder.join("manifest.json")
    manifest = read_json(bucket, location.key)
    change(manifest)
    bucket.store.put(location, json.dumps(manifest).encode())


def forget_etags(manifest: Any) -> None:
    for file in manifest["files"]:
        del file["etag"]


def keep_no_file(manifest: Any) -> None:
    manifest["files"] = []


def name_a_file_elsewhere(manifest: Any) -> None:
    manifest["files"].append({"path": "../../../x", "sha256": "0" * 64, "bytes": 0})


DAMAGES: dict[str, Callable[[Bucket, OutputPlace], object]] = {
    "a file is gone": lambda bucket, place: bucket.store.delete([place.folder.join("README.md")]),
    "a file is cut": lambda bucket, place: bucket.store.put(place.folder.join("README.md"), b"#"),
    "a file was changed": lambda bucket, place: bucket.store.put(
        place.folder.join("adapter_config.json"), b'{"r": 9}\n'
    ),
    "the manifest is cut": lambda bucket, place: bucket.store.put(
        place.folder.join("manifest.json"), b'{"planHash":'
    ),
    "the manifest lists nothing": lambda bucket, place: change_manifest(
        bucket, place, keep_no_file
    ),
    "the manifest leaves its folder": lambda bucket, place: change_manifest(
        bucket, place, name_a_file_elsewhere
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_run_that_is_not_whole_does_not_count(
    bucket: Bucket, files: list[Path], damage: Callable[[Bucket, OutputPlace], object]
) -> None:
    plan, place = build_plan(), place_in(bucket)
    publish(bucket.store, place, build_record(), files=files)
    damage(bucket, place)
    assert find_finished(bucket.store, place, plan) is None


def test_an_address_that_no_key_can_hold_is_refused_before_the_training() -> None:
    with pytest.raises(PlanInvalid) as caught:
        OutputPlace.of(build_plan(), parse_s3_uri(f"s3://adapters/{'x' * 1000}"))
    assert caught.value.message == (
        "The folder of this run below output.uri has an address of 1038 bytes: expected at most 975,"
        " because S3 keys end at 1024; shorten output.uri and apply again."
    )


def test_a_pointer_that_was_lost_is_written_again(bucket: Bucket, files: list[Path]) -> None:
    plan, place = build_plan(), place_in(bucket)
    publish(bucket.store, place, build_record(), files=files)
    pointer = read_json(bucket, "adapters/ml/tiny/latest.json")
    bucket.store.delete([place.root.join("latest.json")])
    find_finished(bucket.store, place, plan)
    assert read_json(bucket, "adapters/ml/tiny/latest.json") == pointer


def test_the_pointer_moves_to_what_the_resource_says_now(bucket: Bucket, files: list[Path]) -> None:
    first, second = build_record(), build_record(plan=build_plan(training__seed=43))
    for account in (first, second):
        publish(bucket.store, place_in(bucket, account.plan), account, files=files)
    assert read_json(bucket, "adapters/ml/tiny/latest.json")["planHash"] == second.plan.hash
    find_finished(bucket.store, place_in(bucket, first.plan), first.plan)
    assert read_json(bucket, "adapters/ml/tiny/latest.json")["planHash"] == first.plan.hash


def test_a_store_that_is_busy_is_waited_for(
    bucket: Bucket, proxied: Bucket, proxy: S3Proxy, files: list[Path]
) -> None:
    proxy.behaviour.busy, proxy.behaviour.busy_method = 6, "PUT"
    publish(proxied.store, place_in(proxied), build_record(), files=files)
    assert find_finished(bucket.store, place_in(bucket), build_plan()) is not None


def test_nothing_counts_when_the_store_keeps_nothing(
    bucket: Bucket, proxied: Bucket, proxy: S3Proxy, files: list[Path]
) -> None:
    publish(bucket.store, place_in(bucket), build_record(), files=files)
    proxy.behaviour.forget_uploads = 100
    for path in files:
        path.write_bytes(path.read_bytes() + b"another run")
    with pytest.raises(OutputUnwritable) as caught:
        publish(proxied.store, place_in(proxied), build_record(), files=files)
    assert caught.value.reason == "UploadCorrupted"
    # The old manifest went before its files were touched, and no new one was written.
    assert find_finished(bucket.store, place_in(bucket), build_plan()) is None


def test_a_store_without_conditional_writes_gets_its_pointer_too(
    bucket: Bucket, proxied: Bucket, proxy: S3Proxy, files: list[Path]
) -> None:
    proxy.behaviour.no_conditions = True
    publish(proxied.store, place_in(proxied), build_record(), files=files)
    assert read_json(bucket, "adapters/ml/tiny/latest.json")["run"] == 1


def test_an_answer_that_was_lost_is_no_failure(
    bucket: Bucket, proxied: Bucket, proxy: S3Proxy, files: list[Path]
) -> None:
    proxy.behaviour.lose_answer = 3
    publish(proxied.store, place_in(proxied), build_record(), files=files)
    assert find_finished(bucket.store, place_in(bucket), build_plan()) is not None


def test_an_output_without_a_bucket_is_told_before_anything_is_fetched(seaweed: Any) -> None:
    store = connect(
        build_credentials(seaweed.endpoint), subject="the output", backoff=quick_backoff()
    )
    place = OutputPlace.of(build_plan(), parse_s3_uri("s3://nowhere-at-all/x"))
    with pytest.raises(TrainerError) as caught:
        find_finished(store, place, build_plan())
    assert isinstance(caught.value, NotFound)
    assert caught.value.reason == "BucketNotFound"


def test_a_long_name_with_dots_stands_whole_in_the_keys(bucket: Bucket) -> None:
    name = ".".join(["a" * 60] * 4)
    place = OutputPlace.of(build_plan(identity__name=name), bucket.at("adapters"))
    assert place.root.key == f"adapters/ml/{name}"


def test_a_manifest_of_a_later_release_is_still_read() -> None:
    plan = build_plan()
    manifest = {
        "schemaVersion": 1,
        "planHash": plan.hash,
        "namespace": "ml",
        "name": "tiny",
        "run": 1,
        "model": "hf://org/tiny",
        "modelRevision": "",
        "datasets": [],
        "files": [],
        "corpus": [],
        "summary": {"steps": 1, "totalSteps": 1, "epochs": 1.0},
        "environment": {},
        "createdAt": "2026-11-25T00:00:00+00:00",
        "newField": 1,
    }
    assert AdapterManifest.model_validate_json(json.dumps(manifest)).plan_hash == plan.hash
