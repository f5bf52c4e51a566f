"""Bad input of every kind: one clear sentence, the right exit code, no useless retry, nothing published.

All resources are applied at once and each test waits for its own, so that the file takes as long as
its slowest pod and not as the sum.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster.fixtures import Lab
from tests.cluster.layout import Layout
from tests.cluster.node import set_gpus
from tests.e2e.product import Finetune, JsonObject, Product, chats, condition, truths

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Bad:
    """One kind of bad input and what a user must read."""

    name: str
    exit_code: int | None
    reason: str
    words: tuple[str, ...]
    """Each must stand in the sentence."""


CASES = (
    Bad("empty-file", 66, "DatasetNotFound", ("e2e-corpora/bad/empty", "empty")),
    Bad("no-rows", 65, "DatasetEmpty", ("e2e-corpora/bad/blank",)),
    Bad("wrong-column", 65, "ColumnsUnknown", ("sauti", "jibu", "messages")),
    Bad("line-37", 65, "MalformedRow", ("line 37", "JSON")),
    Bad("no-bucket", 66, "BucketNotFound", ("e2e-nowhere",)),
    Bad("wrong-credentials", 77, "SignatureDoesNotMatch", ("AWS_", "Secret")),
    Bad("no-tokenizer", 66, "TokenizerMissing", ("tokenizer", "e2e-models/no-tokenizer")),
    Bad("gated", 77, "ModelGated", ("org/gated",)),
    Bad("no-repository", 66, "ModelNotFound", ("org/nowhere",)),
    Bad("wrong-modules", 64, "TargetModulesMissing", ("c_attn", "q_proj")),
)


@pytest.fixture(scope="module")
def applied(product: Product, lab: Lab) -> Iterator[str]:
    """A namespace in which every bad resource was applied."""
    namespace = "e2e-bad-input"
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    product.create_secret(namespace)
    product.create_secret(namespace, "wrong-keys", AWS_SECRET_ACCESS_KEY="wrong")
    for resource in _resources(product):
        lab.apply(resource.build(namespace))
    yield namespace
    lab.kubectl("delete", "namespace", namespace, "--wait=false")


def _resources(product: Product) -> list[Finetune]:
    good = product.put_rows("bad/good.jsonl", chats(24))
    rows = "".join(f'{{"messages": {row["messages"]!r}}}\n'.replace("'", '"') for row in chats(60))
    lines = rows.splitlines(keepends=True)
    lines[36] = '{"messages": [{"role": "user", "content": "habari"\n'
    strangers = [{"sauti": f"habari {number}?", "jibu": "nzuri"} for number in range(24)]
    return [
        Finetune("empty-file", product.put_rows("bad/empty/train.jsonl", "")),
        Finetune("no-rows", product.put_rows("bad/blank.jsonl", "\n\n\n")),
        Finetune("wrong-column", product.put_rows("bad/column.jsonl", strangers)),
        Finetune("line-37", product.put_rows("bad/line37.jsonl", "".join(lines))),
        Finetune("no-bucket", "s3://e2e-nowhere/texts/"),
        Finetune("wrong-credentials", good, secret="wrong-keys"),
        Finetune("no-tokenizer", good, model="s3://e2e-models/no-tokenizer/"),
        Finetune("gated", good, model="hf://org/gated"),
        Finetune("no-repository", good, model="hf://org/nowhere"),
        Finetune(
            "wrong-modules",
            good,
            spec={"parameters": {"lora": {"targetModules": ["q_proj", "c_attn"]}}},
        ),
    ]


@pytest.mark.parametrize("bad", CASES, ids=[bad.name for bad in CASES])
def test_bad_input_ends_failed_with_one_clear_sentence(
    product: Product, applied: str, bad: Bad
) -> None:
    ended = product.wait_end(applied, bad.name, timeout_s=300)

    assert truths(ended) >= {"Failed"}
    failed = condition(ended, "Failed")
    assert failed["reason"] == bad.reason, failed
    assert all(word in failed["message"] for word in bad.words), failed["message"]
    assert len(failed["message"]) < 700
    (attempt,) = ended["status"]["attempts"]
    assert attempt["exitCode"] == bad.exit_code
    assert product.object_keys(f"s3://e2e-adapters/{applied}/{bad.name}/") == []


def test_an_unknown_language_is_stalled_and_no_job_is_made(
    product: Product, namespace: str
) -> None:
    product.lab.apply(
        Finetune("unknown", "s3://e2e-corpora/x", tag="qqqq-nowhere").build(namespace)
    )
    found = product.wait_end(namespace, "unknown", timeout_s=30)
    assert "Stalled" in truths(found)
    accepted = condition(found, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "UnknownLanguage")
    assert "qqqq-nowhere" in accepted["message"]
    assert product.jobs(namespace) == []


def test_a_plan_tampered_with_is_refused(product: Product, namespace: str) -> None:
    data = product.put_rows("tampered/train.jsonl", chats(24))
    product.create_secret(namespace)
    # No node has the label yet, so that the plan can be replaced before the pod mounts it.
    selector = {"scheduling": {"nodeSelector": {"e2e/tampered": "true"}}}
    product.lab.apply(Finetune("tampered", data, spec=selector).build(namespace))
    product.wait(
        namespace, "tampered", lambda found: "nodeSelector" in found["status"].get("message", "")
    )
    _tamper(product, namespace)
    product.lab.kubectl("label", "node", product.lab.node, "e2e/tampered=true", "--overwrite")

    ended = product.wait_end(namespace, "tampered", timeout_s=240)

    failed = condition(ended, "Failed")
    assert failed["reason"] == "PlanTampered", failed
    assert ended["status"]["attempts"][0]["exitCode"] == 64
    assert product.object_keys(f"s3://e2e-adapters/{namespace}/") == []
    product.lab.kubectl("label", "node", product.lab.node, "e2e/tampered-")


def test_an_image_that_cannot_be_pulled_is_named_and_frees_the_node(
    product: Product, namespace: str
) -> None:
    image = "localhost/language-finetune/nowhere:1"
    product.create_secret(namespace)
    data = product.put_rows("image/train.jsonl", chats(24))
    product.lab.apply(Finetune("image", data, spec={"image": image}).build(namespace))

    waiting = product.wait(
        namespace, "image", lambda found: image in found.get("status", {}).get("message", "")
    )
    assert not truths(waiting) & {"Failed", "Complete"}

    ended = product.wait_end(namespace, "image", timeout_s=120)
    failed = condition(ended, "Failed")
    assert failed["reason"] == "ImagePullFailed", failed
    assert image in failed["message"]
    product.wait(namespace, "image", lambda _: product.pods(namespace) == [], 60)


def test_a_run_that_asks_for_a_missing_gpu_says_so(product: Product, namespace: str) -> None:
    set_gpus(0, layout=Layout.from_environment())
    product.create_secret(namespace)
    data = product.put_rows("gpu/train.jsonl", chats(24))
    product.lab.apply(Finetune("gpu", data, spec={"resources": {"gpus": 1}}).build(namespace))
    found = product.wait(
        namespace, "gpu", lambda found: "nvidia.com/gpu" in found["status"].get("message", "")
    )
    assert not truths(found) & {"Failed", "Complete"}


def test_a_container_killed_for_memory_is_told_as_such(product: Product, namespace: str) -> None:
    product.create_secret(namespace)
    data = product.put_rows("memory/train.jsonl", chats(24))
    small = {
        "gpus": 0,
        "requests": {"cpu": "100m", "memory": "160Mi"},
        "limits": {"memory": "160Mi"},
    }
    product.lab.apply(
        Finetune("memory", data, spec={"resources": small, "backoffLimit": 0}).build(namespace)
    )
    ended = product.wait_end(namespace, "memory", timeout_s=180)
    failed = condition(ended, "Failed")
    assert failed["reason"] == "OOMKilled", failed
    # The operator's one more try had twice as much.
    assert "320Mi" in failed["message"]


def _tamper(product: Product, namespace: str) -> None:
    """Replace the immutable plan by one with another learning rate, as an attacker might."""
    import json

    found = json.loads(product.lab.kubectl("get", "configmaps", "-n", namespace, "-o", "json"))
    (plan,) = [item for item in found["items"] if "plan.json" in item.get("data", {})]
    changed = json.loads(plan["data"]["plan.json"])
    changed["training"]["learningRate"] = 0.5
    metadata: JsonObject = plan["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "ownerReferences")}
    product.lab.kubectl("delete", "configmap", metadata["name"], "-n", namespace)
    product.lab.apply(
        {**plan, "metadata": kept, "data": {**plan["data"], "plan.json": json.dumps(changed)}}
    )
