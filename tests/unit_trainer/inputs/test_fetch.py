"""Where models and text come from: S3, claims and the Hub, with what goes wrong there."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.plan import PlannedDataset, PlannedModel
from finetune_trainer.errors import (
    AccessDenied,
    DataInvalid,
    NotFound,
    PlanInvalid,
    ServiceUnavailable,
    TrainerError,
)
from finetune_trainer.inputs.data_files import (
    FileRole,
    HubLayout,
    NamedFile,
    decide_data_files,
    decide_split_files,
    is_data_file,
)
from finetune_trainer.inputs.fetch import (
    Surroundings,
    decide_held_out_splits,
    fetch_dataset,
    fetch_model,
)
from finetune_trainer.inputs.model_files import decide_model_files
from finetune_trainer.storage.backoff import Backoff
from tests.unit_trainer.conftest import Bucket, quick_backoff
from tests.unit_trainer.fake_hub import FakeHub, Faults, Repository
from tests.unit_trainer.s3_proxy import Behaviour, S3Proxy
from tests.unit_trainer.seaweed import ACCESS_KEY, SECRET_KEY

# On a real SeaweedFS: seconds of starting and stopping.
pytestmark = pytest.mark.slow

MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
}
NOISE = {
    "README.md": b"# card",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"graph",
    "original/consolidated.00.pth": b"pickle",
    "consolidated.safetensors": b"the same weights",
    "model-q4.gguf": b"gguf",
    "modeling_custom.py": b"import os",
}
CHOSEN = sorted(MODEL)


def surround(environ: dict[str, str] | None = None, claims: Path = Path("/claims")) -> Surroundings:
    return Surroundings(environ=environ or {}, claims=claims, backoff=quick_backoff())


def s3_environ(endpoint: str, use: str = "MODEL") -> dict[str, str]:
    return {
        f"FINETUNE_{use}_AWS_ACCESS_KEY_ID": ACCESS_KEY,
        f"FINETUNE_{use}_AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        f"FINETUNE_{use}_AWS_ENDPOINT_URL_S3": endpoint,
    }


def model_of(uri: str, **fields: Any) -> PlannedModel:
    return PlannedModel.model_validate({"uri": uri, **fields})


def dataset_of(uri: str, **fields: Any) -> PlannedDataset:
    return PlannedDataset.model_validate({"tag": "sw", "uri": uri, **fields})


def put_folder(bucket: Bucket, prefix: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        bucket.put(f"{prefix}/{name}", data)


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def names_in(folder: Path) -> list[str]:
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("."))


# --- Which files are the model


def test_the_model_is_its_safetensors_config_and_tokenizer() -> None:
    assert decide_model_files([*MODEL, *NOISE], source="x") == tuple(CHOSEN)


def test_code_of_a_model_is_taken_only_where_it_is_trusted() -> None:
    names = decide_model_files([*MODEL, *NOISE], source="x", trust_remote_code=True)
    assert "modeling_custom.py" in names


def test_shards_are_those_of_the_index() -> None:
    names = [name for name in MODEL if name != "model.safetensors"]
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    chosen = decide_model_files(
        [*names, *shards, "model.safetensors.index.json", "consolidated.safetensors"], source="x"
    )
    assert [name for name in chosen if name.endswith(".safetensors")] == shards


def without(*names: str, add: tuple[str, ...] = ()) -> list[str]:
    return [name for name in [*MODEL, *add] if name not in names]


LACKING: dict[str, tuple[list[str], type[TrainerError], str, str]] = {
    "no tokenizer": (
        without("tokenizer.json"),
        NotFound,
        "TokenizerMissing",
        (
            "The model at s3://m has no tokenizer: expected tokenizer.json, tokenizer.model, or"
            " vocab.json with merges.txt beside its config.json; add the tokenizer's files and apply"
            " again."
        ),
    ),
    "no config": (
        ["model.safetensors"],
        NotFound,
        "ModelFileMissing",
        (
            "The model at s3://m has no config.json (found model.safetensors): expected config.json,"
            " .safetensors and a tokenizer; correct the URI and apply again."
        ),
    ),
    "an adapter": (
        ["adapter_config.json", "adapter_model.safetensors"],
        NotFound,
        "ModelFileMissing",
        (
            "s3://m holds an adapter and no model: expected a base model with a config.json; name the"
            " adapter's base model and apply again."
        ),
    ),
    "only pickles": (
        without("model.safetensors", add=("pytorch_model.bin",)),
        DataInvalid,
        "WeightsNotSafetensors",
        (
            "The model at s3://m has its weights only as pytorch_model.bin: expected .safetensors,"
            " because a pickle runs code when it is read; convert the weights with save_pretrained and"
            " apply again."
        ),
    ),
    "no weights": (
        without("model.safetensors"),
        NotFound,
        "ModelFileMissing",
        (
            "The model at s3://m has no weights: expected model.safetensors or"
            " model.safetensors.index.json with its files; add them and apply again."
        ),
    ),
}


@pytest.mark.parametrize(
    ("names", "kind", "reason", "message"), LACKING.values(), ids=list(LACKING)
)
def test_what_a_model_lacks_is_named(
    names: list[str], kind: type[TrainerError], reason: str, message: str
) -> None:
    with pytest.raises(kind) as error:
        decide_model_files(names, source="s3://m")
    assert (error.value.reason, error.value.message) == (reason, message)


# --- A model in S3 and in a claim


def test_a_model_is_fetched_from_s3_and_its_revision_is_its_content(
    bucket: Bucket, tmp_path: Path
) -> None:
    put_folder(bucket, "models/base", {**MODEL, **NOISE})
    uri = f"s3://{bucket.name}/models/base"
    surroundings = surround(s3_environ(bucket.endpoint))
    planned = model_of(uri, credentials="MODEL")
    fetched = fetch_model(planned, tmp_path / "model", surroundings=surroundings)
    assert [name for name in names_in(fetched.path) if name in NOISE] == []
    assert (fetched.path / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert fetched.public_id == uri
    claim = write_folder(tmp_path / "claims" / "models" / "base", {**MODEL, **NOISE})
    found = fetch_model(
        model_of("pvc://models/base"),
        tmp_path / "linked",
        surroundings=surround(claims=tmp_path / "claims"),
    )
    # Weights stay where they are; what may be published is a copy.
    assert names_in(found.path) == names_in(fetched.path)
    assert (found.path / "model.safetensors").resolve() == claim / "model.safetensors"
    assert not (found.path / "config.json").is_symlink()
    assert found.revision == fetched.revision
    assert len(found.revision) == 64


def test_a_copy_on_this_machine_stands_for_the_model_and_keeps_its_name(tmp_path: Path) -> None:
    copy = write_folder(tmp_path / "copy", {**MODEL, **NOISE})
    environ = {"FINETUNE_LOCAL_MODEL": str(copy)}
    found = fetch_model(model_of("hf://org/base"), tmp_path / "no", surroundings=surround(environ))
    assert (found.path, found.public_id) == (copy, "org/base")
    assert len(found.revision) == 64
    assert not (tmp_path / "no").exists()


def test_a_second_fetch_brings_nothing_again(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    put_folder(bucket, "base", MODEL)
    planned = model_of(f"s3://{bucket.name}/base/", credentials="MODEL")
    surroundings = surround(s3_environ(proxy.endpoint))
    first = fetch_model(planned, tmp_path / "model", surroundings=surroundings)
    proxy.behaviour = Behaviour()
    assert fetch_model(planned, tmp_path / "model", surroundings=surroundings) == first
    assert [method for method, _ in proxy.behaviour.seen].count("GET") == 1  # the list


def test_a_shard_that_the_index_names_and_nobody_has_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002"}}
    files = {name: data for name, data in MODEL.items() if name != "model.safetensors"} | {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00002.safetensors": b"w",
    }
    write_folder(tmp_path / "models", files)
    with pytest.raises(NotFound) as error:
        fetch_model(model_of("pvc://models"), tmp_path, surroundings=surround(claims=tmp_path))
    assert error.value.message == (
        "The model at pvc://models lacks model-00002-of-00002, which its"
        " model.safetensors.index.json names; upload the missing files and apply again."
    )


@pytest.mark.parametrize(
    "uri", ["pvc://models/../secrets", "pvc://../etc", "pvc:///x", "pvc://models/link"]
)
def test_a_path_that_leaves_its_claim_is_refused(uri: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "models", MODEL)
    (tmp_path / "models" / "link").symlink_to("/etc")
    with pytest.raises(PlanInvalid) as error:
        fetch_model(model_of(uri), tmp_path, surroundings=surround(claims=tmp_path))
    assert error.value.message == (
        f"The URI {uri!r} of the model leaves its claim: expected pvc://claim/path without '..' or a"
        " link to the outside; correct it and apply again."
    )


def test_a_path_that_is_not_in_the_claim_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(NotFound) as error:
        fetch_model(model_of("pvc://models/base"), tmp_path, surroundings=surround(claims=tmp_path))
    assert error.value.message == (
        "The model at pvc://models/base does not exist: the claim 'models' holds no 'base'; correct"
        " the path or copy the files there, and apply again."
    )


def test_a_scheme_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid) as error:
        fetch_model(model_of("gs://bucket/m"), tmp_path, surroundings=surround())
    assert error.value.message == (
        "The URI 'gs://bucket/m' of the model cannot be fetched: expected s3://bucket/prefix,"
        " pvc://claim/path or hf://; correct it and apply again."
    )


# --- Data in S3 and in a claim

LEFT_BEHIND = {
    "README.md": b"about",
    "README.txt": b"about",
    "LICENSE.txt": b"law",
    "_SUCCESS": b"",
    ".part-0.jsonl.crc": b"crc",
    "empty.jsonl": b"",
    "_temporary/part-1.jsonl": b'{"text": "old"}',
    ".hidden.jsonl": b'{"text": "old"}',
    "dataset_info.json": b"{}",
}
ROWS = b'{"text": "moja"}\n{"text": "mbili"}\n'


@pytest.mark.parametrize("name", list(LEFT_BEHIND))
def test_what_tools_leave_beside_data_is_no_data(name: str) -> None:
    assert not is_data_file(NamedFile(name, len(LEFT_BEHIND[name])))


def test_a_prefix_gives_its_data_files_in_order(bucket: Bucket, tmp_path: Path) -> None:
    files = {**LEFT_BEHIND, "part-1.jsonl": ROWS, "sub/part-2.jsonl.gz": b"packed"}
    put_folder(bucket, "sw", files)
    bucket.store._client.put_object(Bucket=bucket.name, Key="sw/", Body=b"")
    fetched = fetch_dataset(
        dataset_of(f"s3://{bucket.name}/sw/", credentials="DATASET_0"),
        tmp_path,
        surroundings=surround(s3_environ(bucket.endpoint, "DATASET_0")),
    )
    assert [file.source for file in fetched.train] == [
        f"s3://{bucket.name}/sw/part-1.jsonl",
        f"s3://{bucket.name}/sw/sub/part-2.jsonl.gz",
    ]
    assert fetched.train[0].path.read_bytes() == ROWS
    assert fetched.validation == ()


@pytest.mark.parametrize("suffix", ["sw/train.jsonl", "sw", "sw/"])
def test_a_file_and_a_prefix_with_or_without_a_slash_are_found(
    suffix: str, bucket: Bucket, tmp_path: Path
) -> None:
    put_folder(bucket, "sw", {"train.jsonl": ROWS})
    put_folder(bucket, "sw-other", {"train.jsonl": b"never"})
    fetched = fetch_dataset(
        dataset_of(f"s3://{bucket.name}/{suffix}", credentials="DATASET_0"),
        tmp_path,
        surroundings=surround(s3_environ(bucket.endpoint, "DATASET_0")),
    )
    assert [file.source for file in fetched.train] == [f"s3://{bucket.name}/sw/train.jsonl"]


def test_a_held_out_part_of_its_own_is_fetched_apart(bucket: Bucket, tmp_path: Path) -> None:
    put_folder(bucket, "sw", {"train.jsonl": ROWS})
    put_folder(bucket, "held", {"train.jsonl": b'{"text": "tatu"}\n'})
    fetched = fetch_dataset(
        dataset_of(
            f"s3://{bucket.name}/sw/",
            credentials="DATASET_0",
            validation={"uri": f"s3://{bucket.name}/held/"},
        ),
        tmp_path,
        surroundings=surround(s3_environ(bucket.endpoint, "DATASET_0")),
    )
    assert fetched.validation[0].path.read_bytes() == b'{"text": "tatu"}\n'
    assert fetched.train[0].path.read_bytes() == ROWS


EMPTY = {
    "nothing": ({}, "DatasetNotFound", "found nothing there", ""),
    "markers": (
        LEFT_BEHIND,
        "DatasetEmpty",
        "found 9 files, none of them data",
        " 1 file is empty: empty.jsonl.",
    ),
    "another form": (
        {"a.xlsx": b"PK", "b.pdf": b"%PDF"},
        "DatasetEmpty",
        "found 2 files, none of them data",
        (" 2 files (6 bytes) are not read because of a form that is not supported: a.xlsx, b.pdf."),
    ),
}


@pytest.mark.parametrize(("files", "reason", "found", "more"), EMPTY.values(), ids=list(EMPTY))
def test_a_prefix_without_data_is_refused_with_what_is_there(
    files: dict[str, bytes], reason: str, found: str, more: str, bucket: Bucket, tmp_path: Path
) -> None:
    put_folder(bucket, "sw", files)
    uri = f"s3://{bucket.name}/sw/"
    with pytest.raises(NotFound) as error:
        fetch_dataset(
            dataset_of(uri, credentials="DATASET_0"),
            tmp_path,
            surroundings=surround(s3_environ(bucket.endpoint, "DATASET_0")),
        )
    assert error.value.reason == reason
    assert error.value.message == (
        f"The dataset of sw at {uri} has no data files ({found}): expected .parquet, .jsonl, .ndjson,"
        " .json, .csv, .tsv, .txt, also with .gz, .zst, .bz2 or .xz, that are not empty; correct the URI"
        f" or upload the text, and apply again.{more}"
    )


def test_a_file_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "corpora", {"sw.docx": b"x"})
    with pytest.raises(DataInvalid) as error:
        fetch_dataset(
            dataset_of("pvc://corpora/sw.docx"), tmp_path, surroundings=surround(claims=tmp_path)
        )
    assert error.value.message == (
        "The dataset of sw at pvc://corpora/sw.docx has an unknown format: expected a name ending in"
        " .parquet, .jsonl, .ndjson, .json, .csv, .tsv, .txt, also with .gz, .zst, .bz2 or .xz; rename or"
        " convert the file and apply again."
    )


def test_data_in_a_claim_is_read_in_place(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "corpora" / "sw", {"a.jsonl": ROWS, **LEFT_BEHIND})
    fetched = fetch_dataset(
        dataset_of("pvc://corpora/sw/"), tmp_path / "w", surroundings=surround(claims=tmp_path)
    )
    assert [(file.path, file.source) for file in fetched.train] == [
        (folder / "a.jsonl", "pvc://corpora/sw/a.jsonl")
    ]


def test_a_name_in_a_claim_that_is_no_text_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "corpora", {"a.jsonl": ROWS})
    (tmp_path / "corpora" / "kis\udce9.jsonl").write_text("")
    with pytest.raises(DataInvalid) as error:
        fetch_dataset(
            dataset_of("pvc://corpora/"), tmp_path / "w", surroundings=surround(claims=tmp_path)
        )
    assert error.value.message == (
        "pvc://corpora/ holds a file whose name is not UTF-8 (kis\\udce9.jsonl): expected names in"
        " UTF-8; rename the file and apply again."
    )


def test_a_checksum_that_differs_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "corpora", {"a.jsonl": ROWS})
    with pytest.raises(DataInvalid) as error:
        fetch_dataset(
            dataset_of("pvc://corpora/a.jsonl", sha256="0" * 64),
            tmp_path,
            surroundings=surround(claims=tmp_path),
        )
    assert error.value.reason == "ChecksumMismatch"


# --- The Hub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    running = FakeHub(
        {
            "org/base": Repository({**MODEL, **NOISE}),
            "org/gated": Repository(dict(MODEL), is_gated=True),
            "org/corpus": Repository(
                {
                    "README.md": b"card",
                    "corpus.py": b"import os",
                    "data/train-00000-of-00001.jsonl": ROWS,
                    "data/validation-00000-of-00001.jsonl": b'{"text": "tatu"}\n',
                },
                kind="dataset",
            ),
            "org/gated-corpus": Repository({"train.jsonl": ROWS}, kind="dataset", is_gated=True),
        }
    )
    yield running
    running.stop()


def hub_surroundings(hub: FakeHub, token: str = "", backoff: Backoff | None = None) -> Surroundings:
    environ = {"HF_ENDPOINT": hub.endpoint, "FINETUNE_MODEL_HF_TOKEN": token}
    return Surroundings(environ=environ, backoff=backoff or quick_backoff())


def fetch_hub_model(
    hub: FakeHub, uri: str, folder: Path, *, token: str = "", **fields: Any
) -> tuple[Path, str, str]:
    planned = model_of(uri, credentials="MODEL", **fields)
    fetched = fetch_model(planned, folder, surroundings=hub_surroundings(hub, token))
    return fetched.path, fetched.public_id, fetched.revision


def test_a_model_of_the_hub_is_fetched_at_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    path, public_id, revision = fetch_hub_model(hub, "hf://org/base", tmp_path, revision="v1")
    assert (path, public_id) == (tmp_path, "org/base")
    assert revision == hub.repositories["org/base"].commit
    assert names_in(tmp_path) == CHOSEN


def test_a_second_fetch_of_a_hub_model_downloads_nothing(hub: FakeHub, tmp_path: Path) -> None:
    fetch_hub_model(hub, "hf://org/base", tmp_path)
    hub.seen.clear()
    fetch_hub_model(hub, "hf://org/base", tmp_path)
    assert hub.downloads() == []


def test_a_hub_file_that_rotted_on_the_disk_is_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    fetch_hub_model(hub, "hf://org/base", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x" * len(MODEL["model.safetensors"]))
    fetch_hub_model(hub, "hf://org/base", tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_bytes_changed_on_the_way_are_noticed(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = Faults(corrupt=1)
    fetch_hub_model(hub, "hf://org/base", tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in MODEL} == MODEL


def test_a_download_from_the_hub_that_breaks_is_finished(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["org/base"].files["model.safetensors"] = bytes(range(256)) * 8192
    hub.faults = Faults(cut_after=[5])
    fetch_hub_model(hub, "hf://org/base", tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == bytes(range(256)) * 8192


def test_a_gated_model_is_told_with_the_page_to_accept(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied) as error:
        fetch_hub_model(hub, "hf://org/gated", tmp_path)
    assert error.value.reason == "ModelGated"
    assert error.value.message == (
        f"The model hf://org/gated is gated: its terms must be accepted at {hub.endpoint}/org/gated by"
        " the account of HF_TOKEN; accept them, put that token into the Secret of secretRef and apply"
        " again."
    )


def test_a_gated_model_opens_to_the_right_token(hub: FakeHub, tmp_path: Path) -> None:
    fetch_hub_model(hub, "hf://org/gated", tmp_path, token="hf_reader")
    assert names_in(tmp_path) == CHOSEN


MISSING = {
    "without a token": ("", "it is private", "an HF_TOKEN"),
    "with a token": ("hf_reader", "the token given may not see it", "another HF_TOKEN"),
}


@pytest.mark.parametrize(("token", "or_else", "remedy"), MISSING.values(), ids=list(MISSING))
def test_a_missing_model_is_told(
    token: str, or_else: str, remedy: str, hub: FakeHub, tmp_path: Path
) -> None:
    with pytest.raises(NotFound) as error:
        fetch_hub_model(hub, "hf://org/absent", tmp_path, token=token)
    assert error.value.reason == "ModelNotFound"
    assert error.value.message == (
        f"The model hf://org/absent does not exist at {hub.endpoint}, or {or_else}; correct the URI,"
        f" or name a Secret with {remedy} in secretRef, and apply again."
    )


def test_a_missing_revision_is_told(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as error:
        fetch_hub_model(hub, "hf://org/base", tmp_path, revision="v9")
    assert error.value.message == (
        "The model hf://org/base has no revision 'v9': expected a branch, tag or commit listed at"
        f" {hub.endpoint}/org/base; correct model.revision and apply again."
    )


def test_a_wrong_token_is_told_and_not_shown(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied) as error:
        fetch_hub_model(hub, "hf://org/base", tmp_path, token="hf_wrong")
    assert error.value.message == (
        "The model hf://org/base cannot be read: the Hub refused HF_TOKEN (HTTP 401); put a valid"
        " token into the Secret of secretRef and apply again."
    )


def test_a_name_that_no_hub_can_have_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid):
        fetch_hub_model(hub, "hf://org/a/b/c", tmp_path)


def test_a_busy_hub_is_asked_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = Faults(busy=3)
    fetch_hub_model(hub, "hf://org/base", tmp_path)
    assert names_in(tmp_path) == CHOSEN


def test_a_hub_that_nobody_answers_for_is_unavailable(tmp_path: Path) -> None:
    surroundings = Surroundings(
        environ={"HF_ENDPOINT": "http://127.0.0.1:9"}, backoff=quick_backoff(total_s=1)
    )
    with pytest.raises(ServiceUnavailable) as error:
        fetch_model(model_of("hf://org/base"), tmp_path, surroundings=surroundings)
    assert error.value.message == (
        "The model hf://org/base could not be fetched: http://127.0.0.1:9 did not answer"
        " (ConnectError); the run is tried again, and if this lasts, check the network policy and"
        " HF_ENDPOINT."
    )


@pytest.mark.parametrize(
    ("split", "rows"), [("train", ROWS), ("validation", b'{"text": "tatu"}\n')]
)
def test_a_split_of_a_hub_dataset_is_fetched_without_running_its_script(
    split: str, rows: bytes, hub: FakeHub, tmp_path: Path
) -> None:
    fetched = fetch_dataset(
        dataset_of("hf://datasets/org/corpus", split=split),
        tmp_path,
        surroundings=hub_surroundings(hub),
    )
    (file,) = fetched.train
    assert file.path.read_bytes() == rows
    assert file.source == f"hf://datasets/org/corpus/data/{split}-00000-of-00001.jsonl"
    assert fetched.revision == hub.repositories["org/corpus"].commit
    assert not list(tmp_path.rglob("*.py"))


def test_a_gated_dataset_is_told(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied) as error:
        fetch_dataset(
            dataset_of("hf://datasets/org/gated-corpus"),
            tmp_path,
            surroundings=hub_surroundings(hub),
        )
    assert error.value.reason == "DatasetGated"
    assert f"{hub.endpoint}/datasets/org/gated-corpus" in error.value.message


def test_a_dataset_uri_without_datasets_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid) as error:
        fetch_dataset(dataset_of("hf://org/corpus"), tmp_path, surroundings=hub_surroundings(hub))
    assert error.value.message == (
        "The URI 'hf://org/corpus' names no dataset: expected hf://datasets/org/name; correct it and"
        " apply again."
    )


# --- Splits


def layout(*names: str, configs: tuple[dict[str, object], ...] = ()) -> HubLayout:
    return HubLayout(files=tuple(NamedFile(name, 1) for name in names), configs=configs)


def split_of(layout: HubLayout, split: str = "train", folder: str = "") -> tuple[str, ...]:
    return decide_split_files(
        layout, folder=folder, splits=(split,), source="hf://datasets/o/n", tag="sw"
    ).read


def test_splits_are_read_from_file_names_and_folders() -> None:
    files = layout(
        "train.jsonl", "dev.jsonl", "test.jsonl", "train/more.jsonl", "trainer_state.jsonl"
    )
    assert split_of(files) == ("train.jsonl", "train/more.jsonl")
    assert split_of(files, "validation") == ("dev.jsonl",)
    assert split_of(files, "test") == ("test.jsonl",)


def test_files_that_name_no_split_are_the_training_data() -> None:
    assert split_of(layout("a.jsonl", "b.jsonl", "README.md")) == ("a.jsonl", "b.jsonl")


def test_the_same_rows_in_two_formats_are_taken_once() -> None:
    assert split_of(layout("train.csv", "train.parquet")) == ("train.parquet",)


CONFIGS: tuple[dict[str, object], ...] = (
    {"config_name": "en", "data_files": [{"split": "train", "path": "en/*.parquet"}]},
    {
        "config_name": "sw",
        "data_files": [
            {"split": "train", "path": ["sw/a.parquet", "sw/b.parquet"]},
            {"split": "test", "path": "sw/c.parquet"},
        ],
    },
)
FILES = ("en/x.parquet", "sw/a.parquet", "sw/b.parquet", "sw/c.parquet")


def test_a_configuration_is_chosen_by_the_uri() -> None:
    files = layout(*FILES, configs=CONFIGS)
    assert split_of(files, folder="sw") == ("sw/a.parquet", "sw/b.parquet")
    assert split_of(files, "test", folder="sw") == ("sw/c.parquet",)


def test_several_configurations_and_none_chosen_are_told() -> None:
    with pytest.raises(PlanInvalid) as error:
        split_of(layout(*FILES, configs=CONFIGS))
    assert error.value.message == (
        "The dataset at hf://datasets/o/n has 2 configurations and the URI names none: expected"
        " hf://datasets/o/n/<configuration> with one of en, sw; correct dataset.uri and apply again."
    )


def test_a_split_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(NotFound) as error:
        split_of(layout("train.jsonl", "test.jsonl"), "validation")
    assert error.value.message == (
        "The dataset of sw at hf://datasets/o/n has no split 'validation': found test, train; set"
        " dataset.split to one of its splits and apply again."
    )


def test_a_file_that_the_uri_names_is_taken_whatever_its_name() -> None:
    files = layout("train.jsonl", "extra/test.jsonl")
    assert split_of(files, folder="extra/test.jsonl") == ("extra/test.jsonl",)


HELD_OUT = {
    "its validation split": (("train.jsonl", "dev.jsonl"), True, "dev.jsonl"),
    "its test split": (("train.jsonl", "test.jsonl"), True, "test.jsonl"),
    "another dataset's only split": (("train.jsonl",), False, "train.jsonl"),
}


@pytest.mark.parametrize(("names", "is_same", "expected"), HELD_OUT.values(), ids=list(HELD_OUT))
def test_the_held_out_split_is_never_the_training_split(
    names: tuple[str, ...], *, is_same: bool, expected: str
) -> None:
    uri = "hf://datasets/o/n"
    dataset = dataset_of(uri, validation={"uri": uri if is_same else f"{uri}-held-out"})
    splits = decide_held_out_splits(dataset)
    chosen = decide_split_files(layout(*names), folder="", splits=splits, source=uri, tag="sw")
    assert chosen.read == (expected,)


def test_data_files_are_sorted() -> None:
    files = [NamedFile(name, 1) for name in ("b.jsonl", "a.jsonl")]
    assert decide_data_files(files, source="x", tag="sw").read == ("a.jsonl", "b.jsonl")


SPLIT_FOLDER = {
    "train.jsonl": ROWS,
    "validation.jsonl": ROWS,
    "test.jsonl": ROWS,
    "sheet.xlsx": b"PK",
}


def test_a_folder_of_a_claim_is_split_by_name_as_a_hub_s_dataset(tmp_path: Path) -> None:
    write_folder(tmp_path / "corpora", SPLIT_FOLDER)
    fetched = fetch_dataset(
        dataset_of("pvc://corpora/"), tmp_path / "work", surroundings=surround(claims=tmp_path)
    )
    assert [file.source for file in fetched.train] == ["pvc://corpora/train.jsonl"]
    assert fetched.validation == ()
    assert fetched.census.describe() == (
        (
            "1 file (35 bytes) is not trained on because of a name that says validation; name it in"
            " dataset.validation.uri to hold it out: validation.jsonl."
        ),
        "1 file (35 bytes) is not trained on because of a name that says test: test.jsonl.",
        "1 file (2 bytes) is not read because of a form that is not supported: sheet.xlsx.",
    )


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        ("pvc://corpora/", "validation.jsonl"),
        ("pvc://corpora/test.jsonl", "test.jsonl"),
        ("pvc://corpora/more.jsonl", "more.jsonl"),
    ],
    ids=["the folder itself", "a file by its split", "a file of any name"],
)
def test_a_file_that_is_held_out_is_not_trained_on(
    held_out: str, expected: str, tmp_path: Path
) -> None:
    write_folder(tmp_path / "corpora", SPLIT_FOLDER | {"more.jsonl": ROWS})
    fetched = fetch_dataset(
        dataset_of("pvc://corpora/", validation={"uri": held_out}),
        tmp_path / "work",
        surroundings=surround(claims=tmp_path),
    )
    assert [file.path.name for file in fetched.validation] == [expected]
    rest = {"train.jsonl", "more.jsonl"} - {expected}
    assert {file.path.name for file in fetched.train} == rest


def test_a_folder_with_nothing_but_held_out_files_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "corpora", {"dev.jsonl": ROWS, "test.jsonl": ROWS})
    with pytest.raises(NotFound) as error:
        fetch_dataset(
            dataset_of("pvc://corpora/"), tmp_path / "work", surroundings=surround(claims=tmp_path)
        )
    assert error.value.message == (
        "The dataset of sw at pvc://corpora/ has no file of the split 'train': found dev.jsonl,"
        " test.jsonl; name the file itself in the URI if it is meant, and apply again."
    )


LANGUAGE_FOLDERS = ("en/train.csv", "en/test.csv", "fr/train.csv", "sw/train.csv", "sw/test.csv")


def test_a_hub_s_repository_of_several_languages_gives_those_of_the_tag() -> None:
    census = decide_split_files(
        layout(*LANGUAGE_FOLDERS),
        folder="",
        splits=("train",),
        source="hf://datasets/o/n",
        tag="sw",
    )
    assert census.read == ("sw/train.csv",)
    assert [file.name for file in census.of(FileRole.OTHER_LANGUAGE)] == [
        "en/train.csv",
        "fr/train.csv",
    ]


def test_a_repository_of_other_languages_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(PlanInvalid) as error:
        decide_split_files(
            layout(*LANGUAGE_FOLDERS),
            folder="",
            splits=("train",),
            source="hf://datasets/o/n",
            tag="hi",
        )
    assert (error.value.reason, error.value.message) == (
        "DatasetConfigNeeded",
        (
            "The dataset of hi at hf://datasets/o/n holds several languages and none is hi by its name:"
            " found en, fr, sw; set dataset.uri to the folder or file of hi and apply again."
        ),
    )


# --- Import


def test_the_hub_s_endpoint_is_read_from_the_environment(hub: FakeHub, tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from finetune_api.plan import PlannedModel;"
        "from finetune_trainer.inputs.fetch import Surroundings, fetch_model;"
        f"fetch_model(PlannedModel(uri='hf://org/base'), pathlib.Path({str(tmp_path)!r}),"
        " surroundings=Surroundings(environ=os.environ))"
    )
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=120)
    assert names_in(tmp_path) == CHOSEN
