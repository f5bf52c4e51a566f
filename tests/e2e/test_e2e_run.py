"""From `kubectl apply` to an adapter in S3 and a true status, on the real kubelet."""

import json
import time

import pytest

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


def test_a_run_ends_complete_with_a_published_adapter_and_then_nothing_is_written(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    data = product.put_rows("run/train.jsonl", chats(40))
    wanted = Finetune(name="swahili", dataset=data).build(namespace)
    product.lab.apply(wanted)

    done = product.wait_end(namespace, "swahili")

    status = done["status"]
    assert truths(done) >= {"Accepted", "Resolved", "JobCreated", "AdapterUploaded", "Complete"}
    assert not truths(done) & {"Failed", "Stalled", "Reconciling", "Running"}
    assert status["phase"] == "Complete"
    assert status["observedGeneration"] == done["metadata"]["generation"]
    assert status["progress"]["percent"] == 100
    manifest = _manifest(product, status["output"]["uri"])
    names = {file["path"] if isinstance(file, dict) else file for file in manifest["files"]}
    assert names >= {"adapter_model.safetensors", "adapter_config.json", "README.md"}
    assert manifest["planHash"] == status["plan"]["hash"]
    (evaluation,) = [item for item in status["evaluation"] if item["tag"] in {"sw", "*"}][:1]
    assert float(evaluation["adapterBitsPerByte"]) < float(evaluation["baseBitsPerByte"])

    since = stamp()
    product.lab.apply(wanted)
    restart_operator(product)
    time.sleep(5)
    assert product.writes_since(since, namespace=namespace) == []
    assert len(product.jobs(namespace)) == 1


def test_a_restored_resource_is_complete_without_training_again(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    data = product.put_rows("restored/train.jsonl", chats(24))
    wanted = Finetune(name="restored", dataset=data).build(namespace)
    product.lab.apply(wanted)
    first = product.wait_end(namespace, "restored")
    assert "Complete" in truths(first)
    product.lab.kubectl("delete", "lft", "restored", "-n", namespace, "--wait")

    product.lab.apply(wanted)
    second = product.wait_end(namespace, "restored", timeout_s=90)

    assert "Complete" in truths(second)
    assert second["status"]["output"] == first["status"]["output"]
    assert [
        key
        for key in product.object_keys("s3://e2e-adapters/")
        if key.startswith(f"{namespace}/restored/runs/") and key.endswith("/manifest.json")
    ] == [_manifest_key(first)]


def test_an_operator_killed_in_the_middle_makes_no_second_job(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    data = product.put_rows("killed/train.jsonl", chats(40))
    product.lab.apply(Finetune(name="killed", dataset=data).build(namespace))
    product.wait(namespace, "killed", lambda found: "JobCreated" in truths(found))
    (job,) = product.jobs(namespace)

    restart_operator(product)

    done = product.wait_end(namespace, "killed")
    assert "Complete" in truths(done)
    assert [item["metadata"]["uid"] for item in product.jobs(namespace)] == [job["metadata"]["uid"]]
    assert len(product.pods(namespace)) == 1


def test_data_on_a_claim_is_read_in_place(product: Product, namespace: str) -> None:
    product.create_secret(namespace)
    folder = product.lab.volumes / namespace
    (folder / "texts").mkdir(parents=True)
    rows = "".join(f"{json.dumps(row)}\n" for row in chats(24))
    (folder / "texts" / "train.jsonl").write_text(rows, encoding="utf-8")
    product.lab.apply(*_claim(namespace, folder=str(folder)))
    product.lab.apply(Finetune(name="claimed", dataset="pvc://texts/texts").build(namespace))

    done = product.wait_end(namespace, "claimed")

    assert "Complete" in truths(done), done["status"]


def test_model_and_data_come_from_a_hub(product: Product, namespace: str) -> None:
    product.create_secret(namespace)
    wanted = Finetune(name="hub", dataset="hf://datasets/org/chats", model="hf://org/tiny").build(
        namespace
    )
    del wanted["spec"]["model"]["secretRef"], wanted["spec"]["languages"][0]["dataset"]["secretRef"]
    product.lab.apply(wanted)

    done = product.wait_end(namespace, "hub")

    assert "Complete" in truths(done), done["status"]
    assert len(done["status"]["modelRevision"]) == 40


def test_names_of_253_characters_that_differ_at_the_end_get_two_runs(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    data = product.put_rows("long/train.jsonl", chats(24))
    stem = "a" * 60 + ".b" * 95 + "c"
    names = [f"{stem}.{end}".ljust(253, end) for end in "xy"]
    for name in names:
        product.lab.apply(Finetune(name=name, dataset=data).build(namespace))

    ends = [product.wait_end(namespace, name) for name in names]

    assert all("Complete" in truths(end) for end in ends)
    assert len(product.jobs(namespace)) == 2
    assert all(
        f"/{name}/" in end["status"]["output"]["uri"] for name, end in zip(names, ends, strict=True)
    )


def test_a_missing_secret_is_named_and_its_arrival_starts_the_run(
    product: Product, namespace: str
) -> None:
    data = product.put_rows("late/train.jsonl", chats(24))
    product.lab.apply(Finetune(name="late", dataset=data, secret="late-keys").build(namespace))
    waiting = product.wait(
        namespace, "late", lambda found: "late-keys" in found.get("status", {}).get("message", "")
    )
    assert not truths(waiting) & {"Failed", "Complete"}

    product.create_secret(namespace, "late-keys")

    done = product.wait_end(namespace, "late", timeout_s=300)
    assert "Complete" in truths(done)
    assert len(product.pods(namespace)) == 1


def _manifest(product: Product, uri: str) -> JsonObject:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    key = f"{prefix.rstrip('/')}/manifest.json"
    found: JsonObject = json.loads(product.client.get_object(Bucket=bucket, Key=key)["Body"].read())
    return found


def _manifest_key(resource: JsonObject) -> str:
    uri: str = resource["status"]["output"]["uri"]
    return f"{uri.removeprefix('s3://').partition('/')[2].rstrip('/')}/manifest.json"


def _claim(namespace: str, *, folder: str) -> list[JsonObject]:
    size = {"storage": "1Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-texts"},
        "spec": {
            "capacity": size,
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "hostPath": {"path": folder},
            "claimRef": {"namespace": namespace, "name": "texts"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "texts", "namespace": namespace},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": f"{namespace}-texts",
            "resources": {"requests": size},
        },
    }
    return [volume, claim]


def test_conditions_carry_reason_and_sentence(product: Product, namespace: str) -> None:
    product.lab.apply(Finetune(name="plain", dataset="s3://e2e-corpora/x").build(namespace))
    found = product.wait(namespace, "plain", lambda found: "JobCreated" in truths(found))
    for kind in ("Accepted", "Resolved", "JobCreated"):
        said = condition(found, kind)
        assert said["reason"]
        assert said["message"].endswith((".", '"', ")")) or " " in said["message"]
        assert said["observedGeneration"] == 1
