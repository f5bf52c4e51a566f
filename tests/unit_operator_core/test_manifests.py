"""What reaches the pod; the whole of it stands in the golden cases."""

from typing import Any

import pytest

from finetune_api.resource import LanguageFinetune
from finetune_operator.admission import Proposal, propose
from finetune_operator.context import DecisionContext
from finetune_operator.manifests import build_run
from finetune_operator.pods import secret_uses
from tests.unit_operator_core.story import CASES, CONTEXT, read_yaml

LIMITS_ONLY = DecisionContext(
    trainer_image="t",
    status_url="https://s",
    ca_pem="",
    default_requests={"cpu": "2", "memory": "8Gi"},
    default_limits={"memory": "32Gi"},
    image_pull_secrets=("registry",),
)


def resource(**spec: Any) -> LanguageFinetune:
    body = read_yaml(CASES / "new/resource.yaml")
    body["spec"] |= spec
    return LanguageFinetune.from_object(body)


def pod_of(context: DecisionContext, **spec: Any) -> dict[str, Any]:
    body = read_yaml(CASES / "new/resource.yaml")
    body["spec"] |= spec
    proposal = propose(body, run=1, context=context)
    assert isinstance(proposal, Proposal)
    run = build_run(proposal.resource, plan=proposal.plan, attempt=1, context=context)
    pod: dict[str, Any] = run.job["spec"]["template"]["spec"]
    return pod


RESOURCES = {
    "nothing declared": (
        {"gpus": 0},
        {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "32Gi"}},
    ),
    "a limit below the default request": (
        {"gpus": 0, "limits": {"memory": "4Gi"}},
        {"requests": {"cpu": "2"}, "limits": {"memory": "4Gi"}},
    ),
    "a request above the default limit": (
        {"gpus": 0, "requests": {"memory": "64Gi"}},
        {"requests": {"cpu": "2", "memory": "64Gi"}},
    ),
    "both": (
        {"gpus": 0, "requests": {"cpu": "4"}, "limits": {"cpu": "8"}},
        {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"cpu": "8", "memory": "32Gi"}},
    ),
}


@pytest.mark.parametrize(("declared", "expected"), RESOURCES.values(), ids=RESOURCES)
def test_a_default_never_contradicts_what_is_declared(
    declared: dict[str, Any], expected: dict[str, Any]
) -> None:
    container = pod_of(LIMITS_ONLY, resources=declared)["containers"][0]
    assert container["resources"] == expected


def test_registry_credentials_are_named() -> None:
    assert pod_of(LIMITS_ONLY)["imagePullSecrets"] == [{"name": "registry"}]


def test_every_place_of_a_secret_has_a_use_of_its_own() -> None:
    language = {"tag": "sw", "dataset": {"uri": "s3://c/", "secretRef": {"name": "data"}}}
    spec = resource(
        model={"uri": "hf://a/b", "secretRef": {"name": "model"}},
        languages=[language],
        output={
            "uri": "s3://o/",
            "secretRef": {"name": "out"},
            "hub": {"repo": "a/b", "secretRef": {"name": "hub"}},
        },
    )
    assert [(use, reference.name) for use, reference in secret_uses(spec)] == [
        ("MODEL", "model"),
        ("DATASET_0", "data"),
        ("OUTPUT", "out"),
        ("HUB", "hub"),
    ]


def test_a_pod_without_secrets_has_no_environment_from_any() -> None:
    assert "envFrom" not in pod_of(CONTEXT, output={"uri": "s3://o/"})["containers"][0]
