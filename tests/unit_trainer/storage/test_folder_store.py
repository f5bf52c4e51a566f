"""A folder as the store of a run without a cluster: the same protocol as S3, and files of one's own."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import AccessDenied, OutputUnwritable, PlanInvalid
from finetune_trainer.publish.publish import OutputPlace, find_finished, publish
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.folder_store import TEMPORARY, FolderStore
from finetune_trainer.storage.output_store import connect_output_store
from finetune_trainer.storage.s3_errors import ObjectChanged
from finetune_trainer.storage.s3_location import S3Location
from tests.unit_trainer.publish.test_export_folder import build_record
from tests.unit_trainer.store_in_memory import StoreInMemory
from tests.unit_trainer.tiny import build_plan


def open_folder(path: Path) -> tuple[FolderStore, S3Location]:
    store, root = connect_output_store(path.as_uri(), Credentials())
    assert isinstance(store, FolderStore)
    return store, root


def write_adapter(folder: Path) -> list[Path]:
    folder.mkdir()
    contents = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(1000)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_an_adapter_is_published_to_a_folder_and_found_there(tmp_path: Path) -> None:
    store, root = open_folder(tmp_path / "out")
    plan, account = build_plan(), build_record()
    place = OutputPlace.of(plan, root)
    published = publish(store, place, account, files=write_adapter(tmp_path / "made"))
    run = tmp_path / "out" / "ml" / "tiny" / "runs" / f"1-{plan.hash[:8]}"
    assert published.uri == f"{run.as_uri()}/"
    assert sorted(path.name for path in run.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]
    assert json.loads((tmp_path / "out/ml/tiny/latest.json").read_text())["planHash"] == plan.hash
    found = find_finished(store, place, plan)
    assert found is not None
    assert found.published == published.model_copy(update={"already_there": True})


def test_a_changed_file_is_not_taken_for_finished_work(tmp_path: Path) -> None:
    store, root = open_folder(tmp_path / "out")
    plan = build_plan()
    place = OutputPlace.of(plan, root)
    publish(store, place, build_record(), files=write_adapter(tmp_path / "made"))
    adapter = tmp_path / "out/ml/tiny" / place.run_folder / "adapter_model.safetensors"
    adapter.write_bytes(bytes(999) + b"x")
    assert find_finished(store, place, plan) is None


def test_a_file_larger_than_one_request_is_joined_from_its_parts(tmp_path: Path) -> None:
    store, root = open_folder(tmp_path / "out")
    location = root.join("a/large")
    upload = store.begin_upload(location, metadata={})
    # Parts are sent by several threads, in any order.
    etags = {
        number: store.put_part(location, upload, number=number, data=bytes([number]) * 3)
        for number in (2, 1, 3)
    }
    store.finish_upload(location, upload, etags=[etags[number] for number in (1, 2, 3)])
    assert (tmp_path / "out/a/large").read_bytes() == bytes([1, 1, 1, 2, 2, 2, 3, 3, 3])
    assert [path.name for path in (tmp_path / "out/a").iterdir()] == ["large"]


NAMES = st.sampled_from(["a", "b", "a/c", "d/e/f", "d/e.x"])
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "create", "replace", "delete"]), NAMES, st.binary(max_size=3)
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES)
def test_a_folder_answers_as_a_store_of_objects_does(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, bytes]]
) -> None:
    store, root = open_folder(tmp_path_factory.mktemp("out"))
    expected = StoreInMemory()
    for change, name, data in changes:
        # A file cannot be a folder of another, which is the one thing that S3 can do more.
        key = f"{name}.file"
        here, there = root.join(key), S3Location("", key)
        if change == "put":
            store.put(here, data)
            expected.put(there, data)
        elif change == "delete":
            store.delete([here])
            expected.delete([there])
        else:
            known = expected.read(there)
            etag = store.read(here)[1] if known and change == "replace" else None  # type: ignore[index]
            written = store.put_if(here, data, etag=etag)
            assert (written is None) == (known is not None and change == "create")
            if written is not None:
                expected.put(there, data)
        found = store.read(here)
        want = expected.read(there)
        assert (found and found[0]) == (want and want[0])
    prefix = root.key.rstrip("/")
    listed = {one.location.key.removeprefix(f"{prefix}/"): one.size for one in store.list(root)}
    assert listed == {key: len(data) for key, data in expected.objects.items()}


def test_a_reader_notices_that_a_file_was_replaced(tmp_path: Path) -> None:
    store, root = open_folder(tmp_path)
    etag = store.put(root.join("x"), b"old")
    store.put(root.join("x"), b"newer")
    with pytest.raises(ObjectChanged):
        next(store.stream(root.join("x"), offset=0, etag=etag))


def test_a_file_that_is_being_written_is_not_listed(tmp_path: Path) -> None:
    store, root = open_folder(tmp_path)
    store.put(root.join("x"), b"1")
    (tmp_path / f"{TEMPORARY}y").write_bytes(b"2")
    upload = store.begin_upload(root.join("z"), metadata={})
    store.put_part(root.join("z"), upload, number=1, data=b"3")
    assert [one.location.uri for one in store.list(root)] == [(tmp_path / "x").as_uri()]


def test_a_failed_write_leaves_nothing_unfinished(tmp_path: Path) -> None:
    store, root = open_folder(tmp_path)
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(OutputUnwritable) as error:
        store.put(root.join("x"), b"new")
    assert error.value.message == (
        f"{tmp_path.as_uri()} of the output cannot be written (Is a directory): expected a folder;"
        " choose another one."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    store, root = open_folder(tmp_path / "out")
    with pytest.raises(OutputUnwritable) as error:
        store.check_writable(root.join("ml/tiny"))
    assert error.value.reason == "FolderUnwritable"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_before_the_training(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    store, root = open_folder(tmp_path / "out")
    with pytest.raises(AccessDenied):
        store.check_writable(root)


def test_a_relative_file_uri_is_refused() -> None:
    with pytest.raises(PlanInvalid, match="malformed"):
        connect_output_store("file://out", Credentials())


def test_a_copy_of_a_hub_model_names_no_revision_that_a_loader_could_ask_for() -> None:
    account = replace(build_record(), base_name="org/tiny", model_revision="a" * 64)
    assert account.base_revision is None
    assert replace(account, model_revision="b" * 40).base_revision == "b" * 40
