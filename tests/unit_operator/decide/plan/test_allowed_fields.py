"""Which values of a resource reach a pod: every field has an entry, every refusal says what to do."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.decide.plan.accept import Admitted, SpecRefusal, admit
from finetune_operator.decide.plan.allowed_fields import (
    RESTRICTED,
    SETTING_PREFIX,
    UNRESTRICTED,
    is_allowed,
)
from finetune_operator.decide.values.conditions import NOT_ALLOWED
from finetune_operator.decide.values.operator_config import DecisionContext
from finetune_operator.decide.values.pod_policy import PodPolicy
from finetune_operator.settings import PREFIX, Settings
from tests.unit_operator.decide.story import CASES, CONTEXT, read_yaml

ROOT: Final = Path(__file__).parents[4]
CHART_VALUES: Final = ROOT / "charts/language-finetune/values.yaml"
CRD: Final = yaml.safe_load((ROOT / "crds/langops.dev_languagefinetunes.yaml").read_text())
[VERSION] = CRD["spec"]["versions"]
SPEC: Final = VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]


def leaves(schema: dict[str, Any], path: str = "spec") -> Iterator[str]:
    """Yield the path of every field that holds a value."""
    if "items" in schema:
        yield from leaves(schema["items"], f"{path}[]")
    elif "properties" in schema:
        for name, child in schema["properties"].items():
            yield from leaves(child, f"{path}.{name}")
    else:
        yield path


FIELDS: Final = tuple(leaves(SPEC))
RESTRICTED_PATHS: Final = tuple(path for field in RESTRICTED for path in field.paths)


def body(**spec: Any) -> dict[str, Any]:
    raw = read_yaml(CASES / "new/resource.yaml")
    raw["spec"] |= spec
    return raw


def refusal(context: DecisionContext = CONTEXT, **spec: Any) -> str:
    """Return why a resource is refused, or an empty text."""
    answer = admit(body(**spec), context=context)
    if isinstance(answer, Admitted):
        return ""
    assert isinstance(answer, SpecRefusal)
    assert answer.reason == NOT_ALLOWED
    return answer.message


# --- The table is complete --------------------------------------------------------------------------


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_of_the_resource_is_restricted_or_says_why_it_is_not(path: str) -> None:
    is_free = any(path == one or path.startswith((f"{one}.", f"{one}[")) for one in UNRESTRICTED)
    assert path in RESTRICTED_PATHS or is_free, (
        f"{path} has no entry in allowed_fields: give it an allow-list in RESTRICTED, or a reason in "
        "UNRESTRICTED"
    )


@pytest.mark.parametrize("path", [*RESTRICTED_PATHS, *UNRESTRICTED])
def test_every_entry_is_about_a_field_that_exists(path: str) -> None:
    assert [one for one in FIELDS if one == path or one.startswith((f"{path}.", f"{path}["))]


def test_nothing_of_scheduling_is_unrestricted() -> None:
    assert [path for path in UNRESTRICTED if path.startswith("spec.scheduling")] == []


@pytest.mark.parametrize("field", RESTRICTED, ids=lambda field: field.setting)
def test_every_entry_names_a_setting_and_a_chart_value(field: Any) -> None:
    values = yaml.safe_load(CHART_VALUES.read_text())
    for part in field.value.split("."):
        values = values[part]
    assert field.setting in Settings.model_fields
    assert SETTING_PREFIX == PREFIX


# --- What is refused, in whole sentences ---------------------------------------------------------------

CLAIM: Final = {"uri": "pvc://payroll/models/a"}
REFUSALS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a system priority class": (
        {"scheduling": {"priorityClassName": "system-node-critical"}},
        (
            "spec.scheduling.priorityClassName is system-node-critical; allowed are: * (a * never includes "
            "system-*). Leave it out, or ask the administrator to add it to "
            "FINETUNE_ALLOWED_PRIORITY_CLASSES (chart value trainer.allowedPriorityClasses)."
        ),
    ),
    "every taint": (
        {"scheduling": {"tolerations": [{"operator": "Exists"}]}},
        (
            "spec.scheduling.tolerations[0] is AllTaints (it has no key); allowed are: nvidia.com/gpu, amd.com/gpu, "
            "gpu.intel.com/*, cloud.google.com/gke-spot, kubernetes.azure.com/scalesetpriority (a * never "
            "includes AllTaints, node.kubernetes.io/*, node-role.kubernetes.io/*, "
            "node.cloudprovider.kubernetes.io/*). Leave it out, or ask the administrator to add it to "
            "FINETUNE_ALLOWED_TOLERATIONS (chart value trainer.allowedTolerations)."
        ),
    ),
    "another team's taint": (
        {
            "scheduling": {
                "tolerations": [
                    {"key": "nvidia.com/gpu", "operator": "Exists"},
                    {"key": "team", "value": "payroll", "effect": "NoSchedule"},
                ]
            }
        },
        (
            "spec.scheduling.tolerations[1] is team=payroll; allowed are: nvidia.com/gpu, amd.com/gpu, "
            "gpu.intel.com/*, cloud.google.com/gke-spot, kubernetes.azure.com/scalesetpriority. Leave it "
            "out, or ask the administrator to add it to FINETUNE_ALLOWED_TOLERATIONS (chart value "
            "trainer.allowedTolerations)."
        ),
    ),
    "the control plane": (
        {"scheduling": {"nodeSelector": {"node-role.kubernetes.io/control-plane": "true"}}},
        (
            "spec.scheduling.nodeSelector[node-role.kubernetes.io/control-plane] is "
            "node-role.kubernetes.io/control-plane=true; allowed are: * (a * never includes "
            "node-role.kubernetes.io/control-plane, node-role.kubernetes.io/master). Leave it out, or ask "
            "the administrator to add it to FINETUNE_ALLOWED_NODE_SELECTORS (chart value "
            "trainer.allowedNodeSelectors)."
        ),
    ),
    "a runtime class": (
        {"scheduling": {"runtimeClassName": "host-tools"}},
        (
            "spec.scheduling.runtimeClassName is host-tools; allowed are: nvidia, nvidia-*, gvisor, kata, "
            "kata-*. Leave it out, or ask the administrator to add it to FINETUNE_ALLOWED_RUNTIME_CLASSES "
            "(chart value trainer.allowedRuntimeClasses)."
        ),
    ),
    "a service account": (
        {"scheduling": {"serviceAccountName": "admin"}},
        (
            "spec.scheduling.serviceAccountName is admin; allowed are: none. Leave it out, or ask the "
            "administrator to add it to FINETUNE_ALLOWED_SERVICE_ACCOUNTS (chart value "
            "trainer.allowedServiceAccounts)."
        ),
    ),
    "an image": (
        {"image": "evil.example/trainer:1"},
        (
            "spec.image is evil.example/trainer:1; allowed are: none. Leave it out, or ask the "
            "administrator to add it to FINETUNE_ALLOWED_IMAGES (chart value trainer.allowedImages)."
        ),
    ),
    "a model's code": (
        {"model": {"uri": "hf://a/b", "trustRemoteCode": True}},
        (
            "spec.model.trustRemoteCode is true, and this operator runs no code that models ship. Leave it "
            "out, use a model that transformers knows, or ask the administrator to set "
            "FINETUNE_ALLOW_TRUST_REMOTE_CODE (chart value trainer.allowTrustRemoteCode)."
        ),
    ),
}


@pytest.mark.parametrize(("spec", "message"), REFUSALS.values(), ids=REFUSALS)
def test_by_default_a_value_that_crosses_a_border_is_refused(
    spec: dict[str, Any], message: str
) -> None:
    assert refusal(**spec) == message


NARROW: Final = replace(
    CONTEXT,
    pods=PodPolicy(
        allowed_queues=("team-*",),
        allowed_secrets=("finetune-*",),
        allowed_claims=("models", "corpora-*"),
        allowed_images=("registry.example/team/*",),
    ),
)
OWN_SECRET: Final = {"name": "finetune-s3"}
LANGUAGE: Final = {"tag": "sw", "dataset": {"uri": "s3://c/", "secretRef": OWN_SECRET}}
OUTPUT: Final = {"uri": "s3://o/", "secretRef": OWN_SECRET}


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"scheduling": {"queueName": "payroll"}}, "spec.scheduling.queueName is payroll; "),
        (
            {"model": {"uri": "hf://a/b", "secretRef": {"name": "root"}}},
            "spec.model.secretRef.name",
        ),
        (
            {"output": {"uri": "s3://o/", "secretRef": {"name": "root"}}},
            "spec.output.secretRef.name",
        ),
        (
            {"model": CLAIM},
            "spec.model.uri is payroll; allowed are: models, corpora-*. Name another",
        ),
        (
            {"languages": [{"tag": "sw", "dataset": {"uri": "pvc://payroll/sw.jsonl"}}]},
            "spec.languages[0].dataset.uri is payroll; ",
        ),
        (
            {
                "languages": [
                    {"tag": "sw", "dataset": {"uri": "s3://c/", "secretRef": {"name": "x"}}}
                ]
            },
            "spec.languages[0].dataset.secretRef.name is x; allowed are: finetune-*. Name another Secret",
        ),
        ({"image": "registry.example/teams/x:1"}, "spec.image is registry.example/teams/x:1; "),
    ],
    ids=["queue", "model secret", "output secret", "model", "text", "text secret", "image"],
)
def test_an_administrator_can_narrow_every_list(spec: dict[str, Any], where: str) -> None:
    plain = {"languages": [LANGUAGE], "output": OUTPUT}
    assert refusal(NARROW, **plain) == ""
    assert refusal(NARROW, **plain | spec).startswith(where)


ORDINARY: Final[dict[str, dict[str, Any]]] = {
    "a GPU node's taint": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
    "a GPU product": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
    "a role label of workers": {"nodeSelector": {"node-role.kubernetes.io/gpu": ""}},
    "the GPU operator's runtime": {"runtimeClassName": "nvidia-cdi"},
    "a priority of the team": {"priorityClassName": "research"},
    "a queue": {"queueName": "gpus"},
}


@pytest.mark.parametrize("scheduling", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_scheduling_needs_no_setting(scheduling: dict[str, Any]) -> None:
    assert refusal(scheduling=scheduling) == ""


def test_an_administrator_can_allow_what_is_refused_by_default() -> None:
    policy = PodPolicy(
        allowed_priority_classes=("system-node-critical",),
        allowed_tolerations=("AllTaints", "team=ml"),
        allowed_runtime_classes=("*",),
        allowed_images=("evil.example/*",),
    )
    scheduling = {
        "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists"}, {"key": "team", "value": "ml"}],
        "runtimeClassName": "host-tools",
    }
    context = replace(CONTEXT, pods=policy)
    assert refusal(context, scheduling=scheduling, image="evil.example/trainer:1") == ""


def test_permission_for_one_value_of_a_taint_is_none_for_all_its_values() -> None:
    context = replace(CONTEXT, pods=PodPolicy(allowed_tolerations=("team=ml",)))
    for toleration, refused in (
        ({"key": "team", "value": "ml"}, ""),
        ({"key": "team", "value": "payroll"}, "spec.scheduling.tolerations[0] is team=payroll; "),
        ({"key": "team", "operator": "Exists"}, "spec.scheduling.tolerations[0] is team; "),
    ):
        message = refusal(context, scheduling={"tolerations": [toleration]})
        assert message.startswith(refused)
        assert bool(message) is bool(refused)


@given(name=st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,30}[a-z0-9])?", fullmatch=True))
def test_no_wildcard_matches_a_system_priority_class(name: str) -> None:
    patterns = ("*", f"*{name}", "s*", "system*")
    assert not is_allowed(f"system-{name}", patterns=patterns, reserved=("system-",))
    assert is_allowed(f"system-{name}", patterns=("system-*",), reserved=("system-",))


@given(name=st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,30}[a-z0-9])?", fullmatch=True))
def test_an_empty_list_allows_nothing_and_a_name_allows_itself(name: str) -> None:
    assert not is_allowed(name, patterns=())
    assert is_allowed(name, patterns=(name,))
