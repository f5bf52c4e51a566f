"""What the real API server admits and refuses, and what `kubectl explain` says.

Each file of `invalid/` says in its head what refuses it: `# refused: PATH: MESSAGE` is a rule of
`finetune_api.validation`, which the offline check must name in the same words; `# schema: PATH: TEXT`
is a bound of the schema, which the API server words itself.
"""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from pydantic import ValidationError

from finetune_api import wire
from finetune_api.resource import LanguageFinetuneSpec
from finetune_api.validation import ALL_RULES, check_spec
from tests.cluster.fixtures import Lab
from tests.integration.definition import apply_definition

ROOT = Path(__file__).parents[2]
INVALID = sorted((ROOT / "tests/integration/invalid").glob("*.yaml"))
BROKEN_RULES = [file for file in INVALID if file.read_text().startswith("# refused: ")]
BROKEN_SCHEMA = [file for file in INVALID if file.read_text().startswith("# schema: ")]
FULL = ROOT / "tests/integration/valid/full.yaml"
ADMITTED = [*sorted((ROOT / "examples").glob("*.yaml")), FULL]
HEAD = re.compile(r"^# (?:refused|schema): (?P<path>[^:]*): (?P<text>.*)$", re.MULTILINE)
VALUE = re.compile(r'^Invalid value: (?:(?:"[^"]*"|[\d.e-]+|true|false): )?')

NEW_OBJECT: dict[str, Any] = {
    "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
    "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/swahili/"}}],
    "output": {"uri": "s3://adapters/"},
}


class Resources:
    """LanguageFinetunes of one namespace."""

    def __init__(self, api: client.CustomObjectsApi, *, namespace: str) -> None:
        self.api = api
        self.where = {
            "group": wire.GROUP,
            "version": wire.VERSION,
            "namespace": namespace,
            "plural": wire.PLURAL,
        }

    def create(self, spec: dict[str, Any], *, dry_run: str | None = None) -> dict[str, Any]:
        body = {
            "apiVersion": wire.API_VERSION,
            "kind": wire.KIND,
            "metadata": {"name": f"admission-{uuid.uuid4().hex[:8]}"},
            "spec": spec,
        }
        created: dict[str, Any] = self.api.create_namespaced_custom_object(
            **self.where, body=body, dry_run=dry_run, field_validation="Strict"
        )
        return created

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get_namespaced_custom_object(**self.where, name=name)
        return found

    def patch(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = self.api.patch_namespaced_custom_object(
            **self.where, name=name, body={"spec": spec}
        )
        return changed

    def patch_status(self, name: str, status: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = self.api.patch_namespaced_custom_object_status(
            **self.where, name=name, body={"status": status}
        )
        return changed

    def with_job(self, spec: dict[str, Any]) -> str:
        """Create an object whose training Job exists; return its name."""
        name: str = self.create(spec)["metadata"]["name"]
        self.patch_status(name, {"conditions": [job_created()]})
        return name


@pytest.fixture(scope="module")
def established(control_plane: Lab) -> Lab:
    """The lab with the CRD of this checkout served."""
    apply_definition(control_plane)
    return control_plane


@pytest.fixture
def resources(established: Lab, namespace: str) -> Iterator[Resources]:
    api_client = config.new_client_from_config(str(established.kubeconfig))
    yield Resources(client.CustomObjectsApi(api_client), namespace=namespace)
    api_client.close()


@pytest.fixture(scope="module")
def shared(established: Lab) -> Iterator[Resources]:
    """Resources of a namespace in which nothing is created: for refusals and dry runs."""
    api_client = config.new_client_from_config(str(established.kubeconfig))
    yield Resources(client.CustomObjectsApi(api_client), namespace="default")
    api_client.close()


def read_spec(file: Path) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(file.read_text())["spec"]
    return spec


def expected(file: Path) -> set[tuple[str, str]]:
    return {(found["path"], found["text"]) for found in HEAD.finditer(file.read_text())}


def causes(error: client.ApiException) -> set[tuple[str, str]]:
    """Return where and why the API server refused, without the value that it puts before the why."""
    details = json.loads(error.body)["details"]
    return {(one["field"], VALUE.sub("", one["message"])) for one in details["causes"]}


def job_created() -> dict[str, Any]:
    return {
        "type": "JobCreated",
        "status": "True",
        "reason": "Created",
        "message": "The training Job exists.",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }


@pytest.mark.cluster
@pytest.mark.parametrize("file", BROKEN_RULES, ids=lambda file: file.stem)
def test_the_api_server_refuses_with_the_message_of_the_rule(file: Path, shared: Resources) -> None:
    with pytest.raises(client.ApiException) as refused:
        shared.create(read_spec(file))

    assert refused.value.status == 422
    assert causes(refused.value) == expected(file)


@pytest.mark.parametrize("file", BROKEN_RULES, ids=lambda file: file.stem)
def test_the_offline_check_refuses_in_the_same_words(file: Path) -> None:
    spec = LanguageFinetuneSpec.model_validate(read_spec(file))

    assert {(one.path, one.message) for one in check_spec(spec)} == expected(file)


@pytest.mark.cluster
@pytest.mark.parametrize("file", BROKEN_SCHEMA, ids=lambda file: file.stem)
def test_the_api_server_refuses_what_the_schema_does_not_allow(
    file: Path, shared: Resources
) -> None:
    ((path, text),) = expected(file)

    with pytest.raises(client.ApiException) as refused:
        shared.create(read_spec(file))

    refusal = json.loads(refused.value.body)
    found = refusal.get("details", {}).get("causes", [{"message": refusal["message"]}])
    assert any(cause.get("field", "") == path and text in cause["message"] for cause in found), (
        found
    )


@pytest.mark.parametrize("file", BROKEN_SCHEMA, ids=lambda file: file.stem)
def test_the_models_refuse_what_the_schema_does_not_allow(file: Path) -> None:
    with pytest.raises(ValidationError):
        LanguageFinetuneSpec.model_validate(read_spec(file))


def test_every_rule_refuses_some_file() -> None:
    seen = {text for file in BROKEN_RULES for _, text in expected(file)}

    assert {rule.message for rule in ALL_RULES} == seen


@pytest.mark.cluster
def test_kubectl_apply_shows_the_field_its_value_and_the_remedy(established: Lab) -> None:
    file = ROOT / "tests/integration/invalid/output-uri-not-s3.yaml"
    command = [str(established.kubectl_program), f"--kubeconfig={established.kubeconfig}"]
    done = subprocess.run(
        [*command, "apply", f"--filename={file}"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr == (
        'The LanguageFinetune "output-uri-not-s3" is invalid: spec.output.uri: Invalid value: '
        '"pvc://adapters/swahili": is no address to publish to; write s3://bucket/prefix, without '
        "credentials, query or '..'\n"
    )


@pytest.mark.cluster
@pytest.mark.parametrize("file", ADMITTED, ids=lambda file: file.stem)
def test_the_api_server_admits_and_changes_nothing(file: Path, shared: Resources) -> None:
    created = shared.create(read_spec(file), dry_run="All")

    assert created["spec"] == read_spec(file), (
        "admission adds nothing that GitOps would see as drift"
    )


@pytest.mark.cluster
def test_a_new_object_says_that_nobody_has_looked_at_it(resources: Resources) -> None:
    created = resources.create(NEW_OBJECT)

    assert created["status"] == {"observedGeneration": -1}
    assert resources.get(created["metadata"]["name"])["status"] == {"observedGeneration": -1}


@pytest.mark.cluster
def test_progress_alone_leaves_the_object_unlooked_at(resources: Resources) -> None:
    name = resources.create(NEW_OBJECT)["metadata"]["name"]

    assert resources.patch_status(name, {"progress": {"percent": 1}})["status"] == {
        "observedGeneration": -1,
        "progress": {"percent": 1},
    }


@pytest.mark.cluster
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"model": {"uri": "hf://org/another"}}, id="model"),
        pytest.param({"languages": [{**NEW_OBJECT["languages"][0], "tag": "uz"}]}, id="languages"),
        pytest.param({"method": "LoRA"}, id="method"),
        pytest.param({"parameters": {"seed": 7}}, id="parameters"),
        pytest.param({"resources": {"gpus": 0}}, id="resources"),
        pytest.param({"scheduling": {"priorityClassName": "high"}}, id="scheduling"),
        pytest.param({"output": {"uri": "s3://elsewhere/"}}, id="output"),
        pytest.param({"image": "example.com/trainer:2"}, id="image"),
    ],
)
def test_what_the_job_was_made_of_is_frozen(resources: Resources, change: dict[str, Any]) -> None:
    name = resources.with_job(NEW_OBJECT)

    with pytest.raises(client.ApiException) as refused:
        resources.patch(name, change)

    (field,) = change
    message = (
        f"spec.{field} cannot change after the training Job was created; create a "
        "LanguageFinetune of another name, or delete this one and apply it again"
    )
    assert causes(refused.value) == {(f"spec.{field}", message)}


@pytest.mark.cluster
def test_before_the_job_everything_may_change(resources: Resources) -> None:
    name = resources.create(NEW_OBJECT)["metadata"]["name"]

    changed = resources.patch(name, {"parameters": {"seed": 7}})

    assert changed["spec"]["parameters"] == {"seed": 7}


@pytest.mark.cluster
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ttlSecondsAfterFinished": 600}, id="ttl"),
        pytest.param({"backoffLimit": 5}, id="backoff"),
        pytest.param({"suspend": False}, id="suspend"),
        pytest.param({"activeDeadlineSeconds": 7200}, id="deadline raised"),
        pytest.param({"activeDeadlineSeconds": None}, id="deadline removed"),
    ],
)
def test_what_the_job_does_not_depend_on_stays_mutable(
    resources: Resources, change: dict[str, Any]
) -> None:
    name = resources.with_job(NEW_OBJECT | {"activeDeadlineSeconds": 3600})

    changed = resources.patch(name, change)

    assert {key: changed["spec"].get(key) for key in change} == change


@pytest.mark.cluster
def test_the_deadline_cannot_be_lowered(resources: Resources) -> None:
    name = resources.with_job(NEW_OBJECT | {"activeDeadlineSeconds": 3600})

    with pytest.raises(client.ApiException) as refused:
        resources.patch(name, {"activeDeadlineSeconds": 60})

    message = (
        "spec.activeDeadlineSeconds can only be raised or removed after the training Job was "
        "created; delete the resource to stop its training"
    )
    assert causes(refused.value) == {("spec.activeDeadlineSeconds", message)}


@pytest.mark.cluster
def test_the_status_of_another_version_stays_writable(resources: Resources) -> None:
    """Words and combinations that no version of ours has written must not block a status write."""
    name = resources.create(NEW_OBJECT)["metadata"]["name"]
    resources.patch_status(
        name,
        {
            "phase": "SomethingOld",
            "conditions": [{"type": "Odd", "status": "Maybe"}],
            "plan": {"hash": "abc"},
            "parameters": [{"name": "r", "source": "Oracle"}],
            "evaluation": [{"tag": "sw"}],
            "checkpoint": {"step": 1},
        },
    )

    written = resources.patch_status(name, {"conditions": [job_created()]})

    assert written["status"]["phase"] == "SomethingOld"
    assert [one["type"] for one in written["status"]["conditions"]] == ["JobCreated"]


@pytest.mark.cluster
def test_the_columns_show_a_run_at_a_glance(resources: Resources, established: Lab) -> None:
    name = resources.create(NEW_OBJECT)["metadata"]["name"]
    attempts = [{"jobName": f"{name}-1-train-{number}", "uid": str(number)} for number in (1, 2)]
    resources.patch_status(
        name,
        {
            "phase": "Running",
            "languagesText": "sw",
            "message": "Trains.",
            "plan": {"method": "LoRA"},
            "progress": {"percentText": "42%", "loss": "1.93", "etaText": "12m"},
            "attempts": attempts,
            "output": {"uri": "s3://adapters/x/"},
        },
    )

    where = f"--namespace={resources.where['namespace']}"
    heads, row = established.kubectl("get", "langops", where, "--output=wide").splitlines()

    assert heads.split() == [
        *("NAME", "PHASE", "LANGUAGES", "PROGRESS", "LOSS", "ETA", "AGE"),
        *("MODEL", "METHOD", "ATTEMPT", "OUTPUT", "MESSAGE"),
    ]
    shown = row.split()
    assert shown[:6] == [name, "Running", "sw", "42%", "1.93", "12m"]
    assert shown[7:] == [
        NEW_OBJECT["model"]["uri"],
        *("LoRA", f"{name}-1-train-2", "s3://adapters/x/", "Trains."),
    ]


@pytest.mark.cluster
def test_explain_tells_of_the_traits(established: Lab) -> None:
    shown = established.kubectl("explain", "lft.spec.languages.traits")

    head = "    Declared traits; each beats the catalogue and every measurement.\n"
    morphology = (
        "  morphology\t<string>\n  enum: Simple, Complex\n"
        "    How much a word carries: Simple (English, Spanish) or Complex (Hindi,\n"
        "    Arabic, Finnish).\n"
    )
    switching = (
        "  codeSwitching\t<boolean>\n    Whether texts mix two languages, as Hindi-English does.\n"
    )
    for lines in (head, morphology, switching):
        assert lines in shown
