"""What of a resource runs on this machine, and where its state is kept."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.resource import LanguageFinetuneSpec
from finetune_cli.errors import CliError
from finetune_cli.local_run.begin import begin_resource, build_metadata
from finetune_cli.local_run.local_inputs import (
    ClaimedTexts,
    build_local_spec,
    count_gpus,
    find_local_texts,
    link_texts,
    shown_paths,
)
from finetune_cli.local_run.state_folder import StateFolder, open_state

SPEC: dict[str, Any] = {
    "model": {"uri": "hf://org/base", "secretRef": {"name": "hub"}},
    "languages": [
        {
            "tag": "sw",
            "dataset": {
                "uri": "hf://datasets/org/text",
                "split": "dev",
                "columns": {"text": "body"},
                "validation": {"fraction": 0.1, "maxExamples": 9},
                "secretRef": {"name": "hub"},
            },
        }
    ],
    "resources": {"gpus": 2, "nodes": 2, "gpuMemory": "80Gi", "limits": {"memory": "9Gi"}},
    "scheduling": {"queueName": "team"},
    "suspend": True,
    "output": {"uri": "s3://adapters/"},
}
NO_TEXTS = ClaimedTexts({}, {})


def find(text: Path, *, held_out: Path | None = None) -> ClaimedTexts:
    validation = [str(held_out)] if held_out else []
    spec = LanguageFinetuneSpec.model_validate(SPEC)
    return find_local_texts(spec, data=[str(text)], validation=validation)


def build(texts: ClaimedTexts = NO_TEXTS, *, gpus: int = 0) -> dict[str, Any]:
    return build_local_spec(SPEC, texts=texts, gpus=gpus, has_hub_token=False)


def test_what_only_a_cluster_gives_is_left_out() -> None:
    local = build()
    assert local.keys() == {
        "model",
        "languages",
        "resources",
        "output",
        "updatePolicy",
        "backoffLimit",
    }
    assert local["languages"] == SPEC["languages"]
    assert SPEC["suspend"] is True


@pytest.mark.parametrize(
    ("here", "resources"),
    [
        (0, {"gpus": 0}),
        (1, {"gpus": 1, "gpuMemory": "80Gi"}),
        (8, {"gpus": 2, "gpuMemory": "80Gi"}),
    ],
    ids=["none", "fewer", "more"],
)
def test_no_more_gpus_are_asked_for_than_the_machine_has(
    here: int, resources: dict[str, Any]
) -> None:
    assert build(gpus=here)["resources"] == resources


def test_a_token_of_the_hub_is_passed_on_for_hub_addresses_alone() -> None:
    bare = {
        "model": {"uri": "hf://org/base"},
        "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/sw/"}}],
        "output": {"uri": "s3://adapters/"},
    }
    local = build_local_spec(bare, texts=NO_TEXTS, gpus=0, has_hub_token=True)
    assert local["model"]["secretRef"] == {"name": "environment"}
    assert "secretRef" not in local["languages"][0]["dataset"]


def test_a_local_text_takes_the_place_of_the_datasets_address(text: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held.jsonl"
    held_out.write_text(text.read_text())
    texts = find(text, held_out=held_out)
    dataset = build(texts)["languages"][0]["dataset"]
    assert dataset == {
        "uri": texts.train[0].uri,
        "columns": {"text": "body"},
        "validation": {"maxExamples": 9, "uri": texts.validation[0].uri},
    }
    assert dataset["uri"].startswith("pvc://text-sw-")
    assert dataset["validation"]["uri"].startswith("pvc://text-sw-held-out-")


def test_the_address_changes_with_the_text_and_not_with_its_place(
    text: Path, tmp_path: Path
) -> None:
    before = find(text).train[0].uri
    moved = tmp_path / "elsewhere" / text.name
    moved.parent.mkdir()
    moved.write_bytes(text.read_bytes())
    assert find(moved).train[0].uri == before
    moved.write_bytes(text.read_bytes() + b"\n")
    assert find(moved).train[0].uri != before


def test_the_files_of_a_folder_are_linked_below_their_claim(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("habari")
    (folder / "b" / "c.jsonl").write_text('{"text": "asubuhi"}')
    texts = find(folder)
    link_texts(texts, claims=tmp_path / "claims")
    linked = tmp_path / "claims" / texts.train[0].claim / "text"
    assert (linked / "a.txt").read_text() == "habari"
    assert (linked / "b" / "c.jsonl").is_file()
    uri = texts.train[0].uri
    assert shown_paths(texts)[f"{uri}/b/c.jsonl"] == str(folder / "b" / "c.jsonl")
    assert shown_paths(texts)[uri] == str(folder)


def test_held_out_text_without_training_text_is_refused(text: Path) -> None:
    with pytest.raises(CliError) as error:
        find_local_texts(LanguageFinetuneSpec.model_validate(SPEC), data=[], validation=[str(text)])
    assert error.value.lines == [
        "--validation goes with --data; add --data with the text to train on."
    ]


@pytest.mark.parametrize(
    ("chosen", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2), ("GPU-a,GPU-b", 2)]
)
def test_visible_gpus_are_those_that_the_environment_chooses(chosen: str, count: int) -> None:
    assert count_gpus({"CUDA_VISIBLE_DEVICES": chosen}) == count


# --- State -----------------------------------------------------------------------------------------


def begin(saved: Any, **spec: Any) -> dict[str, Any]:
    return begin_resource(saved, metadata=build_metadata({"name": "x"}, place="/o"), spec=spec)


def complete(generation: int = 1) -> dict[str, Any]:
    condition = {
        "type": "Complete",
        "status": "True",
        "reason": "Done",
        "message": "",
        "lastTransitionTime": "2026-01-01T12:00:00Z",
    }
    status = {
        "observedGeneration": generation,
        "run": 1,
        "conditions": [condition],
        "measurement": {"hash": "a", "profile": "{}"},
    }
    return begin(None, a=1) | {"status": status}


def test_the_same_place_and_name_are_the_same_resource() -> None:
    first = build_metadata({"name": "x", "labels": {"team": "b"}}, place="/o")
    assert first == build_metadata({"name": "x", "labels": {"team": "b"}}, place="/o")
    assert first["namespace"] == "default"
    assert first["uid"] != build_metadata({"name": "x"}, place="/p")["uid"]


def test_a_first_run_has_no_status() -> None:
    assert begin(None, a=1)["status"] == {}


def test_a_changed_spec_is_the_next_generation_of_the_resource() -> None:
    body = begin(complete(), a=2)
    assert (body["metadata"]["generation"], body["status"]["run"]) == (2, 1)


def test_a_run_that_ended_begins_again_with_what_was_measured() -> None:
    body = begin(complete(), a=1)
    assert body["metadata"]["generation"] == 1
    assert body["status"] == {"measurement": {"hash": "a", "profile": "{}"}}


def test_a_run_that_goes_on_keeps_its_status() -> None:
    saved = begin(None, a=1) | {"status": {"run": 1, "phase": "Suspended"}}
    assert begin(saved, a=1)["status"] == {"run": 1, "phase": "Suspended"}


def test_state_is_kept_and_read_back(tmp_path: Path) -> None:
    state = open_state(output=tmp_path, namespace="ml", name="x")
    assert state.load() is None
    body = complete()
    state.save(body)
    assert state.load() == body
    assert state.status_file == tmp_path / "ml" / "x" / "status.yaml"
    state.save_plan("x-1-plan-abc", "{}")
    assert (state.load_plan("x-1-plan-abc"), state.load_plan("other")) == ("{}", "")
    assert state.load_plan("../status") == ""


def test_a_second_command_on_the_same_resource_is_refused(tmp_path: Path) -> None:
    state = StateFolder(path=tmp_path, work=tmp_path)
    with state.locked(), pytest.raises(CliError) as error, state.locked():
        pass
    assert error.value.lines == [
        f"Another run of this resource is at work in {tmp_path}; wait for its end, or end it, and try again."
    ]
    with state.locked() as handle:
        assert handle > 0


@pytest.mark.parametrize("content", ["{", "kind: Job", "- 1", "\x00"])
def test_a_status_file_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    state = StateFolder(path=tmp_path, work=tmp_path)
    state.status_file.write_text(content)
    with pytest.raises(CliError) as error:
        state.load()
    assert error.value.lines == [
        (
            f"{tmp_path}/status.yaml holds no LanguageFinetune; it is written by this command alone: "
            "delete it, and the run begins again from its newest checkpoint."
        )
    ]
