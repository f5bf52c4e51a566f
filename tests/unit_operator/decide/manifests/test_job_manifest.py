"""What reaches the pod; the whole of it stands in the golden cases."""

from dataclasses import replace
from typing import Any, Final

import pytest

from finetune_api.resource import LanguageFinetune
from finetune_operator.decide.manifests.job import build_objects, build_run
from finetune_operator.decide.manifests.pod import secret_uses
from finetune_operator.decide.manifests.pod_task import PodTask
from finetune_operator.decide.plan.accept import ResolvedPlan, resolve_plan
from finetune_operator.decide.plan.build_plan import build_measure_plan
from finetune_operator.decide.values.operator_config import DecisionContext
from finetune_operator.decide.values.pod_policy import PodPolicy
from tests.unit_operator.decide.story import CASES, CONTEXT, read_yaml

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
    declared = resource(**spec)
    resolved = resolve_plan(declared, run=1)
    assert isinstance(resolved, ResolvedPlan)
    run = build_run(declared, plan=resolved.plan, attempt=1, context=context)
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


def test_a_pod_is_given_the_time_that_the_run_is_known_to_need_or_the_administrators() -> None:
    resolved = resolve_plan(resource(), run=1)
    assert isinstance(resolved, ResolvedPlan)
    for measured, expected in ((None, 300), (200, 300), (480, 480)):
        run = build_run(
            resource(), plan=resolved.plan, attempt=1, context=CONTEXT, grace_s=measured
        )
        pod = run.job["spec"]["template"]["spec"]
        reported = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        assert pod["terminationGracePeriodSeconds"] == expected
        assert reported["FINETUNE_GRACE_SECONDS"] == str(expected)


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


def test_gpus_that_train_together_are_asked_for_in_one_pod_with_memory_to_share() -> None:
    for count, mounts in ((1, []), (4, [{"name": "shared-memory", "mountPath": "/dev/shm"}])):
        pod = pod_of(CONTEXT, resources={"gpus": count})
        [container] = pod["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == str(count)
        assert [each for each in container["volumeMounts"] if "shm" in each["mountPath"]] == mounts
        shared = [each for each in pod["volumes"] if each["name"] == "shared-memory"]
        assert shared == [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}] * len(mounts)


def test_a_plan_is_the_same_on_as_many_gpus_as_do_the_same_step() -> None:
    alone = resolve_plan(resource(parameters={"gradientAccumulationSteps": 4}), run=1)
    two = {"parameters": {"gradientAccumulationSteps": 2}, "resources": {"gpus": 2}}
    together = resolve_plan(resource(**two), run=1)
    larger = resolve_plan(resource(**two | {"resources": {"gpus": 4}}), run=1)
    assert isinstance(alone, ResolvedPlan)
    assert isinstance(together, ResolvedPlan)
    assert isinstance(larger, ResolvedPlan)
    assert together.plan.hash == alone.plan.hash
    assert larger.plan.hash != alone.plan.hash
    steps = [each.plan.whole_training.sequences_per_step for each in (alone, together, larger)]
    assert steps == [steps[0], steps[0], 2 * steps[0]]


# --- What the administrator adds to every pod ----------------------------------------------------

EACH_ROLE: Final = ("train", "measure", "probe")


def template_of(role: str, *, policy: PodPolicy, **spec: Any) -> dict[str, Any]:
    """Return the pod template of a role under the administrator's policy."""
    declared, context = resource(**spec), replace(CONTEXT, pods=policy)
    resolved = resolve_plan(declared, run=1)
    assert isinstance(resolved, ResolvedPlan)
    task = {
        "train": PodTask.to_train(resolved.plan),
        "measure": PodTask.to_measure(build_measure_plan(declared, run=1)),
        "probe": PodTask.to_probe(resolved.plan),
    }[role]
    job = build_objects(declared, task=task, attempt=1, context=context).job
    template: dict[str, Any] = job["spec"]["template"]
    return template


@pytest.mark.parametrize("role", EACH_ROLE)
def test_ids_that_the_administrator_leaves_to_the_cluster_are_not_rendered(role: str) -> None:
    policy = PodPolicy(run_as_user=None, run_as_group=None, fs_group=None)
    assert template_of(role, policy=policy)["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize("role", EACH_ROLE)
def test_ids_are_the_administrators(role: str) -> None:
    policy = PodPolicy(run_as_user=1000, run_as_group=None, fs_group=2000)
    context = template_of(role, policy=policy)["spec"]["securityContext"]
    assert (context["runAsUser"], context.get("runAsGroup"), context["fsGroup"]) == (
        1000,
        None,
        2000,
    )


@pytest.mark.parametrize("role", EACH_ROLE)
def test_every_container_carries_the_limits_that_a_quota_asks_for(role: str) -> None:
    policy = PodPolicy(required_limits={"cpu": "2", "memory": "1Gi", "ephemeral-storage": "20Gi"})
    [container] = template_of(role, policy=policy, resources={"gpus": 0})["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert limits["cpu"] == "2"
    assert limits["memory"] == ("32Gi" if role == "train" else "4Gi")  # what is declared stays
    assert limits["ephemeral-storage"] == "20Gi"


def test_a_required_limit_is_never_below_the_request() -> None:
    policy = PodPolicy(required_limits={"cpu": "2", "memory": "1Gi"})
    declared = {"gpus": 0, "requests": {"cpu": "6", "memory": "64Gi"}}
    [container] = template_of("train", policy=policy, resources=declared)["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "6", "memory": "64Gi"},
        "limits": {"cpu": "6", "memory": "64Gi"},
    }


@pytest.mark.parametrize("role", EACH_ROLE)
def test_injectors_are_switched_off_by_labels_and_annotations(role: str) -> None:
    policy = PodPolicy(
        labels={"sidecar.istio.io/inject": "false", "langops.dev/role": "forged"},
        annotations={"linkerd.io/inject": "disabled", "langops.dev/finetune": "forged"},
    )
    metadata = template_of(role, policy=policy)["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == "false"
    assert metadata["labels"]["langops.dev/role"] == role
    assert metadata["annotations"] == {
        "linkerd.io/inject": "disabled",
        "langops.dev/finetune": "swahili-assistant",
    }


# --- A pod that measures --------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "model": {"uri": "pvc://models/tiny"},
    "languages": [
        {
            "tag": "sw",
            "dataset": {"uri": "s3://c/", "validation": {"uri": "pvc://held-out/sw.jsonl"}},
        }
    ],
    "resources": {"gpus": 1, "requests": {"cpu": "32"}, "limits": {"memory": "256Gi"}},
    "scheduling": {
        "serviceAccountName": "reader",
        "priorityClassName": "research",
        "nodeSelector": {"gpu": "h100"},
        "runtimeClassName": "nvidia",
        "tolerations": [{"key": "team", "operator": "Exists"}],
    },
    "ttlSecondsAfterFinished": 300,
}


def measure_job(context: DecisionContext, **spec: Any) -> dict[str, Any]:
    declared = resource(**spec)
    task = PodTask.to_measure(build_measure_plan(declared, run=1))
    job = build_objects(declared, task=task, attempt=1, context=context).job
    return dict(job)


def test_a_pod_that_measures_takes_neither_gpu_nor_its_node() -> None:
    pod = measure_job(CONTEXT, **EVERYTHING)["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "250m", "memory": "1Gi"},
        "limits": {"memory": "4Gi"},
    }
    assert "nodeSelector" not in pod
    assert "runtimeClassName" not in pod


def test_a_pod_that_measures_runs_where_the_administrator_says() -> None:
    context = replace(CONTEXT, measure_node_selector={"pool": "cpu"})
    for spec in (EVERYTHING, {}):
        pod = measure_job(context, **spec)["spec"]["template"]["spec"]
        assert pod["nodeSelector"] == {"pool": "cpu"}


def test_a_pod_that_measures_has_the_rights_and_the_claims_of_one_that_trains() -> None:
    pod = measure_job(CONTEXT, **EVERYTHING)["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "reader"
    assert pod["tolerations"] == [{"key": "team", "operator": "Exists"}]
    claims = [one["persistentVolumeClaim"] for one in pod["volumes"] if one["name"][:5] == "claim"]
    assert claims == [
        {"claimName": "held-out", "readOnly": True},
        {"claimName": "models", "readOnly": True},
    ]


@pytest.mark.parametrize("inherits", [False, True])
def test_a_pod_that_measures_takes_the_priority_of_the_run_only_if_the_administrator_says_so(
    inherits: bool,
) -> None:
    context = replace(CONTEXT, pods=PodPolicy(measure_inherits_priority=inherits))
    pod = measure_job(context, **EVERYTHING)["spec"]["template"]["spec"]
    assert pod.get("priorityClassName") == ("research" if inherits else None)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({}, 21_600),
        ({"activeDeadlineSeconds": 600}, 600),
        ({"activeDeadlineSeconds": 86_400}, 21_600),
    ],
    ids=["the administrator's", "a shorter one of the resource", "a longer one of the resource"],
)
def test_a_measure_job_has_a_deadline(declared: dict[str, Any], expected: int) -> None:
    assert measure_job(CONTEXT, **declared)["spec"]["activeDeadlineSeconds"] == expected


def test_a_pod_that_measures_says_nothing_of_the_runs_progress_and_holds_no_token() -> None:
    # The percentage of a run never falls: one that measured to the end would hide all training.
    pod = measure_job(CONTEXT, **EVERYTHING)["spec"]["template"]["spec"]
    assert "KUBEFLOW_TRAINER_SERVER_URL" not in {one["name"] for one in pod["containers"][0]["env"]}
    assert "token" not in {one["name"] for one in pod["volumes"]}


def test_a_measure_job_stays_until_it_is_read_whatever_the_resource_says_of_its_runs() -> None:
    assert measure_job(CONTEXT, **EVERYTHING)["spec"]["ttlSecondsAfterFinished"] == 3600


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, True),
        ({"stage": "ContinuedPretraining"}, False),
        ({"parameters": {"completionOnlyLoss": False}}, False),
    ],
    ids=["instructions", "plain text", "declared"],
)
def test_what_carries_loss_is_counted_as_it_will_be_trained(
    spec: dict[str, Any], expected: bool
) -> None:
    assert build_measure_plan(resource(**spec), run=1).completion_only_loss is expected
