"""Measuring before training, and mode Plan: no GPU is asked for until the numbers are known."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fixtures import Lab
from tests.cluster.layout import Layout
from tests.cluster.node import set_gpus
from tests.demo.materials import load_corpus, load_tokenizer_folder
from tests.e2e.product import (
    Finetune,
    JsonObject,
    Product,
    chats,
    condition,
    restart_operator,
    stamp,
    truths,
)

pytestmark = pytest.mark.e2e
PLAN = {"mode": "Plan"}


def roles(product: Product, namespace: str) -> list[str]:
    """Return the roles of the Jobs of a namespace, the oldest first."""
    jobs = sorted(product.jobs(namespace), key=lambda job: job["metadata"]["creationTimestamp"])
    return [job["metadata"]["labels"]["langops.dev/role"] for job in jobs]


def test_a_plan_is_ready_without_a_gpu_and_then_nothing_is_written(
    product: Product, namespace: str
) -> None:
    set_gpus(0, layout=Layout.from_environment())
    product.create_secret(namespace)
    data = product.put_rows("plan/train.jsonl", chats(40))
    wanted = Finetune("planned", data, spec=PLAN | {"resources": {"gpus": 1}}).build(namespace)
    product.lab.apply(wanted)

    done = product.wait_end(namespace, "planned")

    status = done["status"]
    assert condition(done, "Complete").get("reason") == "PlanReady", status
    assert truths(done) == {"Accepted", "CorpusMeasured", "Resolved", "Complete"}
    (corpus,) = status["corpus"]
    assert (corpus["tag"], corpus["examples"] + corpus["validationExamples"]) == ("sw", 40)
    assert status["plan"]["totalSteps"] > 0
    assert status["gpuMemory"]["predicted"].endswith("Gi")
    assert len(status["parameters"]) > 30
    assert roles(product, namespace) == ["measure"]
    (pod,) = product.pods(namespace)
    assert "nvidia.com/gpu" not in json.dumps(pod["spec"]["containers"][0]["resources"])

    since = stamp()
    restart_operator(product)
    time.sleep(5)
    assert product.writes_since(since, namespace=namespace) == []


def test_mode_run_goes_on_from_the_plan(product: Product, namespace: str) -> None:
    product.create_secret(namespace)
    data = product.put_rows("plan-run/train.jsonl", chats(40))
    planned = Finetune("goes-on", data, spec=PLAN).build(namespace)
    product.lab.apply(planned)
    plan = product.wait_end(namespace, "goes-on")["status"]["plan"]

    product.lab.apply({**planned, "spec": {**planned["spec"], "mode": "Run"}})

    product.wait(namespace, "goes-on", lambda found: "JobCreated" in truths(found))
    done = product.wait_end(namespace, "goes-on")
    assert condition(done, "Complete").get("reason") == "Done", done["status"]
    assert done["status"]["plan"]["hash"] == plan["hash"]
    assert done["status"]["plan"]["totalSteps"] == plan["totalSteps"]
    assert roles(product, namespace) == ["measure", "train"]


def test_a_text_of_unknown_size_is_measured_before_it_is_trained(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    data = product.put_rows("unknown/train.jsonl", chats(40))
    wanted = Finetune("unknown", data).build(namespace)
    del wanted["spec"]["languages"][0]["traits"]
    product.lab.apply(wanted)

    done = product.wait_end(namespace, "unknown")

    status = done["status"]
    assert "AdapterUploaded" in truths(done), status
    assert roles(product, namespace) == ["measure", "train"]
    rank = next(one for one in status["parameters"] if one["name"] == "r")
    assert {"trait": "corpus", "value": "Small", "source": "Measured", "detail": "40 examples"} in (
        rank["because"]
    )
    assert [attempt["reason"] for attempt in status["attempts"]] == ["Measured", "Done"]
    unobserved = [one["name"] for one in status["parameters"] if not one.get("observation")]
    assert not set(unobserved) & {"r", "lora_alpha", "learning_rate", "batch_size", "bias"}


def test_a_faulty_line_is_found_without_a_gpu_and_its_correction_goes_on(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    lines = [f"{json.dumps(row)}\n" for row in chats(60)]
    whole = product.put_rows("faulty/whole.jsonl", "".join(lines))
    lines[36] = '{"messages": [{"role": "user", "content": "habari"\n'
    faulty = product.put_rows("faulty/line37.jsonl", "".join(lines))
    product.lab.apply(Finetune("faulty", faulty, spec=PLAN).build(namespace))
    ended = product.wait_end(namespace, "faulty")
    failed = condition(ended, "Failed")
    assert (failed["reason"], "line 37" in failed["message"]) == ("MalformedRow", True), failed

    product.lab.apply(Finetune("faulty", whole, spec=PLAN).build(namespace))

    ready = product.wait(
        namespace, "faulty", lambda found: condition(found, "Complete") != {}, timeout_s=240
    )
    assert condition(ready, "Complete")["reason"] == "PlanReady"
    assert roles(product, namespace) == ["measure", "measure"]


# --- One text under three tokenizers --------------------------------------------------------------


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of a public model, and what Hindi is in it."""

    family: str
    chars_per_token: float
    """Of the paragraphs of the declaration in Hindi. The catalogue's 0.96, 1.07 and 3.68 are of FLORES-200's
    sentences, other text with more names and numbers."""
    density: str
    config: JsonObject
    """The model's shape, as its config.json tells it."""


TOKENIZERS = (
    Tokenizer(
        "llama2",
        0.96,
        "Dense",
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 11008,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        },
    ),
    Tokenizer(
        "qwen3",
        1.08,
        "Dense",
        {
            "model_type": "qwen3",
            "hidden_size": 4096,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 12288,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
        },
    ),
    Tokenizer(
        "gemma3",
        4.15,
        "Light",
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "num_hidden_layers": 34,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "intermediate_size": 10240,
                "vocab_size": 262208,
                "max_position_embeddings": 131072,
            },
        },
    ),
)
TAGS = {"hi": "hindi", "und": "undetermined"}
"""With the guide's row, and without any: then the measurement alone decides."""


@pytest.fixture(scope="module")
def measured(product: Product, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A namespace in which the same Hindi text is planned under each tokenizer."""
    namespace = "e2e-tokenizers"
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    product.create_secret(namespace)
    spoken = [json.loads(line) for line in load_corpus("hin").training.read_text().splitlines()]
    rows = [{"text": row["messages"][1]["content"]} for row in spoken]
    data = product.put_rows("hindi/train.jsonl", rows)
    for tokenizer in TOKENIZERS:
        folder = write_model(tokenizer, tmp_path_factory.mktemp("model") / tokenizer.family)
        for file in folder.iterdir():
            product.client.upload_file(
                str(file), "e2e-models", f"hindi/{tokenizer.family}/{file.name}"
            )
        for tag, word in TAGS.items():
            lab.apply(plan_of(tokenizer, tag=tag, word=word, data=data).build(namespace))
    yield namespace
    lab.kubectl("delete", "namespace", namespace, "--wait=false")


def write_model(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write what a Measure pod reads of a model, tokenizer and shape, and weights in name only.

    That they are there is looked at, because the training would need them; they are never fetched.
    """
    shutil.copytree(load_tokenizer_folder(tokenizer.family), folder)
    (folder / "config.json").write_text(json.dumps(tokenizer.config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"this is not read")
    return folder


def plan_of(tokenizer: Tokenizer, *, tag: str, word: str, data: str) -> Finetune:
    spec: dict[str, Any] = {"mode": "Plan", "resources": {"gpus": 1}, "parameters": {}}
    model = f"s3://e2e-models/hindi/{tokenizer.family}/"
    return Finetune(f"{word}-{tokenizer.family}", data, tag=tag, model=model, spec=spec)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=[one.family for one in TOKENIZERS])
def test_hindi_is_as_dense_as_the_tokenizer_makes_it(
    product: Product, measured: str, tokenizer: Tokenizer
) -> None:
    labelled = product.wait_end(measured, f"{TAGS['hi']}-{tokenizer.family}", timeout_s=400)
    unlabelled = product.wait_end(measured, f"{TAGS['und']}-{tokenizer.family}", timeout_s=400)

    for found in (labelled, unlabelled):
        assert condition(found, "Complete").get("reason") == "PlanReady", found["status"]
        (corpus,) = found["status"]["corpus"]
        assert float(corpus["charsPerToken"]) == pytest.approx(tokenizer.chars_per_token, rel=0.02)
    assert trait(unlabelled) == (tokenizer.density, "Measured")
    assert trait(labelled) == ("Dense", "Guide")
    disagrees = "density-measured-differs" in warnings(labelled)
    assert disagrees == (tokenizer.density == "Light")
    write_row(tokenizer, labelled=labelled, unlabelled=unlabelled)


def trait(found: JsonObject) -> tuple[str, str]:
    """Return the density that decided the sequence length, and where it came from."""
    length = next(one for one in found["status"]["parameters"] if one["name"] == "max_seq_length")
    density = next(one for one in length["because"] if one["trait"] == "tokenDensity")
    return density["value"], density["source"]


def warnings(found: JsonObject) -> dict[str, str]:
    return {one["id"]: one["message"] for one in found["status"].get("warnings", [])}


def write_row(tokenizer: Tokenizer, *, labelled: JsonObject, unlabelled: JsonObject) -> None:
    """Leave what was seen, for the page about measuring (run with -rP to read it)."""
    (corpus,) = labelled["status"]["corpus"]
    lengths = corpus["tokenLengths"]
    row = {
        "tokenizer": tokenizer.family,
        "corpus": {key: value for key, value in corpus.items() if key != "warnings"},
        "lengths": lengths,
        "trait": trait(unlabelled),
        "plans": [
            {one["name"]: one["value"] for one in found["status"]["parameters"]}["max_seq_length"]
            for found in (labelled, unlabelled)
        ],
        "warning": warnings(labelled).get("density-measured-differs", ""),
        "memory": labelled["status"].get("gpuMemory", {}),
        "message": labelled["status"]["message"],
    }
    print(json.dumps(row, ensure_ascii=False))
