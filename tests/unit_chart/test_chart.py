"""The chart: what it renders is valid, restricted and has no right too many."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from finetune_api import wire
from tests.cluster import tools
from tests.unit_chart.values_table import build_table, documented

CHART = Path(__file__).parents[2] / "charts/language-finetune"
VALUES = (CHART / "values.yaml").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
LOWEST, HIGHEST = "1.33.0", "1.37.0"

EVERYTHING = (
    "replicas=3",
    "networkPolicy.restrictEgress=true",
    "trainer.allowedPriorityClasses={research,batch-*}",
    "trainer.allowedTolerations={AllTaints,team=ml}",
    "trainer.allowedImages={registry.example/team/*}",
    "trainer.requiredLimits.cpu=4000m",
    "trainer.measure.deadlineSeconds=3600",
    "trainer.measure.inheritPriorityClass=true",
    "certificate.existingSecret=status-certificate",
    "rbac.aggregate=true",
    "imagePullSecrets={operator-pull}",
    "trainer.imagePullSecrets={trainer-pull,other}",
    "trainer.env.HF_ENDPOINT=https://hub.example.com",
    "trainer.requests.memory=8Gi",
    "trainer.allowedServiceAccounts={trainer}",
    "priorityClassName=system-cluster-critical",
    "nodeSelector.disk=ssd",
    "podAnnotations.a=b",
    "podLabels.team=ml",
    "serviceAccount.annotations.role=x",
    "service.annotations.c=d",
    "extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://proxy:3128",
    "tolerations[0].operator=Exists",
    f"image.digest=sha256:{'0' * 64}",
)
NAMESPACED = (
    "watch.namespaces={team-a,team-b}",
    "networkPolicy.trainingEgress[0].to[0].ipBlock.cidr=10.0.0.0/8",
)
LEFT_TO_THE_CLUSTER = tuple(
    f"{context}.{name}=null"
    for context in ("podSecurityContext", "trainer.securityContext")
    for name in ("runAsUser", "runAsGroup", "fsGroup")
)

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def helm() -> Path:
    """Helm as the lab installs it."""
    program = tools.command_folders()[1] / "helm"
    if program.exists():
        return program
    advice = "helm is missing: run `python -m tests.cluster tools`"
    if os.environ.get("CI") == "true":
        pytest.fail(advice)
    pytest.skip(advice)


def run(helm: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(helm), *arguments], capture_output=True, text=True, check=False)


def render(helm: Path, *values: str, kubernetes: str = HIGHEST) -> list[Manifest]:
    settings = [f"--set={value}" for value in values]
    command = ("template", "language-finetune", str(CHART), "--namespace=system")
    done = run(helm, *command, f"--kube-version={kubernetes}", *settings)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def only(manifests: list[Manifest], kind: str, name: str = "language-finetune") -> Manifest:
    (found,) = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def environment(manifests: list[Manifest]) -> dict[str, str]:
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def rules(manifests: list[Manifest]) -> list[tuple[str, Manifest]]:
    """Return every rule that the operator is bound to, with the kind and name of its role."""
    bound = {
        (one["roleRef"]["kind"], one["roleRef"]["name"], one["metadata"].get("namespace"))
        for one in manifests
        if one["kind"].endswith("Binding")
    }
    return [
        (role["kind"], rule)
        for role in manifests
        if (role["kind"], role["metadata"]["name"], role["metadata"].get("namespace")) in bound
        for rule in role["rules"]
    ]


# --- What is rendered -----------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.parametrize("kubernetes", [LOWEST, HIGHEST])
@pytest.mark.parametrize(
    "values",
    [(), EVERYTHING, NAMESPACED, LEFT_TO_THE_CLUSTER],
    ids=["defaults", "everything", "namespaced", "left to the cluster"],
)
def test_every_manifest_is_valid(helm: Path, values: tuple[str, ...], kubernetes: str) -> None:
    manifests = render(helm, *values, kubernetes=kubernetes)

    for manifest in manifests:
        if manifest["kind"] != "CustomResourceDefinition":
            kubernetes_validate.validate(manifest, kubernetes, strict=True)


@pytest.mark.cluster
def test_helm_lint_finds_nothing(helm: Path) -> None:
    done = run(helm, "lint", "--strict", str(CHART))

    assert done.returncode == 0, done.stdout


@pytest.mark.cluster
def test_an_older_kubernetes_is_refused(helm: Path) -> None:
    done = run(helm, "template", str(CHART), "--kube-version=1.32.9")

    assert "chart requires kubeVersion: >=1.33.0-0" in done.stderr


@pytest.mark.cluster
def test_the_definition_is_the_plain_one_and_is_kept(helm: Path) -> None:
    rendered = only(render(helm), "CustomResourceDefinition", f"{wire.PLURAL}.{wire.GROUP}")
    plain = yaml.safe_load((CHART.parents[1] / f"crds/{wire.GROUP}_{wire.PLURAL}.yaml").read_text())

    assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert rendered == plain


@pytest.mark.cluster
@pytest.mark.parametrize("value", ["crds.enabled=false", "crds.keep=false"])
def test_the_definition_can_be_left_out_or_let_go(helm: Path, value: str) -> None:
    definitions = [one for one in render(helm, value) if one["kind"] == "CustomResourceDefinition"]

    assert [one["metadata"].get("annotations") for one in definitions] == (
        [] if value == "crds.enabled=false" else [None]
    )


@pytest.mark.cluster
def test_the_operator_fits_pod_security_restricted(helm: Path) -> None:
    pod = only(render(helm), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [set(volume) - {"name"} for volume in pod["volumes"]] == [{"emptyDir"}]


@pytest.mark.cluster
def test_ids_can_be_left_to_the_cluster(helm: Path) -> None:
    manifests = render(helm, *LEFT_TO_THE_CLUSTER)
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    variables = environment(manifests)

    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    names = ("FINETUNE_RUN_AS_USER", "FINETUNE_RUN_AS_GROUP", "FINETUNE_FS_GROUP")
    assert [variables[name] for name in names] == ["", "", ""]


# --- The network ----------------------------------------------------------------------------------


@pytest.mark.cluster
def test_only_training_pods_reach_the_status_server(helm: Path) -> None:
    policy = only(render(helm), "NetworkPolicy")["spec"]
    labels = {wire.LABEL_MANAGED_BY: wire.APP_NAME, wire.LABEL_COMPONENT: "trainer"}

    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [
        {
            "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": labels}}],
            "ports": [{"port": "status", "protocol": "TCP"}],
        },
        {"ports": [{"port": "probes", "protocol": "TCP"}]},
    ]


@pytest.mark.cluster
def test_a_training_pod_has_the_labels_that_the_policies_select(helm: Path) -> None:
    job = yaml.safe_load((CHART.parents[1] / "tests/cases/operator/new/job.yaml").read_text())
    policies = [one for one in render(helm, *NAMESPACED) if one["kind"] == "NetworkPolicy"]
    [training] = [one for one in policies if one["metadata"]["namespace"] == "team-a"]

    selected = training["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= job["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.cluster
def test_with_a_list_of_namespaces_nothing_reaches_training_pods(helm: Path) -> None:
    policies = [one for one in render(helm, *NAMESPACED) if one["kind"] == "NetworkPolicy"]
    operator, *training = policies

    assert operator["spec"]["ingress"][0]["from"][0]["namespaceSelector"] == {
        "matchExpressions": [
            {
                "key": "kubernetes.io/metadata.name",
                "operator": "In",
                "values": ["team-a", "team-b"],
            }
        ]
    }
    assert [one["metadata"]["namespace"] for one in training] == ["team-a", "team-b"]
    for policy in training:
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert "ingress" not in policy["spec"]
        assert policy["spec"]["egress"] == [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]


@pytest.mark.cluster
def test_the_operators_egress_is_restricted_on_request(helm: Path) -> None:
    policy = only(render(helm, "networkPolicy.restrictEgress=true"), "NetworkPolicy")["spec"]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [
        53,
        53,
        443,
        6443,
    ]


@pytest.mark.cluster
def test_the_service_leads_to_the_pods_of_the_deployment(helm: Path) -> None:
    manifests = render(helm, "podLabels.team=ml")
    service, deployment = only(manifests, "Service"), only(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert {port["port"]: ports[port["targetPort"]] for port in service["spec"]["ports"]} == {
        8443: 8443,
        8080: 8080,
    }
    assert environment(manifests)["FINETUNE_STATUS_SERVICE"] == "language-finetune.system.svc"


@pytest.mark.cluster
def test_a_budget_is_made_for_several_replicas_only(helm: Path) -> None:
    kinds = [{one["kind"] for one in render(helm, f"replicas={count}")} for count in (1, 2)]

    assert ["PodDisruptionBudget" in seen for seen in kinds] == [False, True]


@pytest.mark.cluster
def test_a_render_is_always_the_same(helm: Path) -> None:
    assert render(helm) == render(helm)


# --- What the operator may do ---------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.parametrize("values", [(), NAMESPACED], ids=["cluster", "namespaced"])
def test_the_one_secret_is_named_and_not_created(helm: Path, values: tuple[str, ...]) -> None:
    granted = [one for one in rules(render(helm, *values)) if "secrets" in one[1]["resources"]]

    assert granted == [
        (
            "Role",
            {
                "apiGroups": [""],
                "resources": ["secrets"],
                "resourceNames": ["language-finetune-certificate"],
                "verbs": ["get", "update"],
            },
        )
    ]


@pytest.mark.cluster
def test_every_right_is_one_that_the_operator_uses(helm: Path) -> None:
    granted = {
        (*rule["resources"], *rule["verbs"])
        for _, rule in rules(render(helm, "rbac.userRoles=false"))
    }

    assert granted == {
        ("languagefinetunes", "get", "list", "watch"),
        ("languagefinetunes/status", "patch"),  # server-side apply
        ("languagefinetunes/finalizers", "update"),  # asked for by blockOwnerDeletion
        ("jobs", "create", "delete", "get", "list", "patch", "watch"),
        ("pods", "list", "watch"),
        ("configmaps", "create", "get"),  # get: whose is the one that has the name
        ("events", "create"),
        ("events", "list"),
        ("tokenreviews", "create"),
        ("leases", "create"),
        ("leases", "get", "update"),
        ("secrets", "get", "update"),
    }


@pytest.mark.cluster
def test_a_given_certificate_is_mounted_and_no_secret_is_readable(helm: Path) -> None:
    manifests = render(helm, "certificate.existingSecret=given")
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]

    assert [one for one in rules(manifests) if "secrets" in one[1]["resources"]] == []
    assert [one for one in manifests if one["kind"] == "Secret"] == []
    assert {"name": "certificate", "secret": {"secretName": "given"}} in pod["volumes"]
    assert environment(manifests)["FINETUNE_CERTIFICATE_DIR"] == "/etc/finetune-certificate"


@pytest.mark.cluster
def test_the_chart_makes_the_certificate_secret_empty(helm: Path) -> None:
    secret = only(render(helm), "Secret", "language-finetune-certificate")

    assert secret.keys() == {"apiVersion", "kind", "metadata", "type"}


@pytest.mark.cluster
@pytest.mark.parametrize("values", [(), EVERYTHING, NAMESPACED])
def test_no_right_is_wide_or_dangerous(helm: Path, values: tuple[str, ...]) -> None:
    for _, rule in rules(render(helm, *values)):
        assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
        assert not {
            *("pods/exec", "pods/attach", "pods/log", "serviceaccounts/token", "nodes"),
            *("roles", "rolebindings", "clusterroles", "customresourcedefinitions"),
        } & set(rule["resources"])
        assert rule["resources"] != ["pods"] or rule["verbs"] == ["list", "watch"]


@pytest.mark.cluster
def test_a_list_of_namespaces_takes_no_cluster_wide_right(helm: Path) -> None:
    manifests = render(helm, *NAMESPACED)

    assert {one["kind"] for one in manifests if "Role" in one["kind"]} == {"Role", "RoleBinding"}
    assert environment(manifests)["FINETUNE_NAMESPACES"] == "team-a,team-b"


@pytest.mark.cluster
def test_nobody_is_bound_but_the_operator(helm: Path) -> None:
    manifests = render(helm)
    subjects = [
        subject
        for one in manifests
        if one["kind"].endswith("Binding")
        for subject in one["subjects"]
    ]

    assert subjects == [
        {"kind": "ServiceAccount", "name": "language-finetune", "namespace": "system"}
    ] * len(subjects)
    aggregated = [one for one in manifests if "rbac.authorization.k8s.io" in str(one["metadata"])]
    assert aggregated == []


# --- Settings and values --------------------------------------------------------------------------


@pytest.mark.cluster
def test_settings_reach_the_operator(helm: Path) -> None:
    variables = environment(render(helm, *EVERYTHING))

    assert variables["FINETUNE_TRAINER_IMAGE"] == "language-finetune/trainer:0.1.0"
    assert variables["FINETUNE_TRAINER_IMAGE_PULL_SECRETS"] == "trainer-pull,other"
    assert json.loads(variables["FINETUNE_TRAINER_ENV"]) == {
        "HF_ENDPOINT": "https://hub.example.com"
    }
    assert json.loads(variables["FINETUNE_DEFAULT_REQUESTS"]) == {"memory": "8Gi"}
    assert variables["FINETUNE_ALLOWED_SERVICE_ACCOUNTS"] == "trainer"
    assert variables["FINETUNE_ALLOW_TRUST_REMOTE_CODE"] == "false"
    assert variables["HTTPS_PROXY"] == "http://proxy:3128"


@pytest.mark.cluster
def test_the_operator_takes_the_settings_of_the_chart(
    helm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_operator.settings import Settings

    variables = environment(render(helm, *EVERYTHING))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    known = {f"FINETUNE_{name.upper()}" for name in Settings.model_fields}

    assert {name for name in variables if name.startswith("FINETUNE_")} <= known
    assert settings.trainer_image_pull_secrets == ("trainer-pull", "other")
    assert settings.default_requests == {"memory": "8Gi"}
    assert settings.measure_requests == {"cpu": "250m", "memory": "1Gi"}
    assert settings.measure_limits == {"memory": "4Gi"}
    assert settings.namespaces == ()
    assert settings.allowed_priority_classes == ("research", "batch-*")
    assert settings.allowed_tolerations == ("AllTaints", "team=ml")
    assert settings.allowed_images == ("registry.example/team/*",)
    assert settings.required_limits == {"cpu": "4000m"}
    assert settings.pod_labels == {"sidecar.istio.io/inject": "false"}
    assert settings.pod_annotations == {"linkerd.io/inject": "disabled"}
    assert settings.measure_deadline_s == 3600
    assert settings.measure_inherits_priority is True


@pytest.mark.cluster
def test_the_chart_and_the_operator_have_the_same_defaults(
    helm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_operator.settings import Settings

    monkeypatch.setenv("FINETUNE_TRAINER_IMAGE", "trainer:1")
    plain = Settings()
    for name, value in environment(render(helm)).items():
        monkeypatch.setenv(name, value)
    charted = Settings()

    names = [name for name in Settings.model_fields if name.startswith(("allow", "run_as", "fs_"))]
    assert {name: getattr(charted, name) for name in names} == {
        name: getattr(plain, name) for name in names
    }
    assert charted.measure_deadline_s == plain.measure_deadline_s


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("trainer.image.name=x", "additional properties 'name' not allowed"),
        ("replicas=0", "at '/replicas': minimum: got 0, want 1"),
        ("image.digest=latest", "at '/image/digest'"),
        ("trainer.requests.gpu=1", "additional properties 'gpu' not allowed"),
        ("log.level=TRACE", "at '/log/level'"),
        ("trainer.securityContext.runAsUser=0", "at '/trainer/securityContext/runAsUser'"),
        ("trainer.allowedTolerations={a b}", "at '/trainer/allowedTolerations/0'"),
        ("trainer.requiredLimits.gpu=1", "additional properties 'gpu' not allowed"),
    ],
)
def test_helm_refuses_values_that_the_chart_does_not_know(
    helm: Path, value: str, refusal: str
) -> None:
    done = run(helm, "template", str(CHART), f"--set={value}")

    assert done.returncode == 1
    assert refusal in done.stderr


@pytest.mark.cluster
def test_the_notes_tell_the_next_command(helm: Path) -> None:
    command = ("install", "language-finetune", str(CHART), "--dry-run=client")
    done = run(helm, *command, "--set=trainer.allowTrustRemoteCode=true", "--hide-notes=false")

    assert "kubectl get lft -w" in done.stdout
    assert "WARNING: trainer.allowTrustRemoteCode is true" in done.stdout


def test_the_schema_knows_every_value_and_no_other() -> None:
    jsonschema.validate(yaml.safe_load(VALUES), SCHEMA)

    assert known(SCHEMA) - {"global"} == present(yaml.safe_load(VALUES))


def known(schema: Manifest, path: str = "") -> set[str]:
    """Return the paths that a closed part of the schema names and leaves open below."""
    if "properties" not in schema or path.endswith(("requests", "limits", "requiredLimits")):
        return {path}
    assert schema["additionalProperties"] is False, path
    parts = schema["properties"].items()
    return {one for name, part in parts for one in known(part, f"{path}.{name}".lstrip("."))}


OPEN_MAPS = (".requests", ".limits", ".requiredLimits", ".podLabels", ".podAnnotations")
"""Values that are explained as a whole."""


def present(values: Any, path: str = "") -> set[str]:
    is_whole = path == "resources" or path.endswith(OPEN_MAPS)
    if not isinstance(values, dict) or not values or is_whole:
        return {path}
    return {
        one for name, part in values.items() for one in present(part, f"{path}.{name}".lstrip("."))
    }


def test_every_value_is_explained() -> None:
    explained = {path for path, _, _ in documented(VALUES)}

    assert explained == present(yaml.safe_load(VALUES))


def test_the_readme_has_the_table_of_values() -> None:
    page = (CHART / "README.md").read_text()

    assert page.endswith(build_table(VALUES)), "run `python tests/unit_chart/values_table.py`"
