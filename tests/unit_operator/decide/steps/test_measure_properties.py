"""What holds of measuring, for every course that a Measure Job may take."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.outcome import Outcome, Stage
from finetune_api.profile import Profile
from finetune_operator.decide.decide import decide
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.observation import Observed, ObservedJob, ObservedPod
from tests.unit_operator.decide.story import CASES, CONTEXT, START, read_yaml
from tests.unit_operator.decide.test_decide_properties import QUICK, junk

RUN = read_yaml(CASES / "measure-new/resource.yaml")
PLAN = read_yaml(CASES / "plan-new/resource.yaml")
FOUND = read_yaml(CASES / "measured/observed.yaml")
PROFILE = Profile.from_rows(
    FOUND["pods"][0]["status"]["containerStatuses"][0]["state"]["terminated"]["outcome"]["profile"]
)
HOUR = timedelta(hours=1)


@dataclass
class Cluster:
    """A cluster in little: it carries answers out, ends pods on request and forgets by TTL."""

    body: dict[str, Any]
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    now: datetime = START
    adds: tuple[dict[str, Any], ...] = ()
    """Environment that a policy of the cluster gives every container."""

    def observe(self) -> Observed:
        return Observed(
            body=self.body,
            jobs=tuple(ObservedJob.from_object(one) for one in self.jobs.values()),
            pods=tuple(ObservedPod.from_object(one) for one in self.pods.values()),
        )

    def reconcile(self, *, dies_after: int = 99) -> Actions:
        """Decide and carry out, as far as the operator lives."""
        actions = decide(self.observe(), now=self.now, context=CONTEXT)
        for manifest in actions.creates[:dies_after]:
            self._create(manifest)
        if dies_after <= len(actions.creates):
            return actions
        if actions.status is not None:
            self.body = {**self.body, "status": json.loads(json.dumps(actions.status))}
        if dies_after == len(actions.creates) + 1:
            return actions
        for one in actions.deletes:
            self.remove(one.name)
        return actions

    def _create(self, manifest: Mapping[str, Any]) -> None:
        if manifest["kind"] != "Job" or manifest["metadata"]["name"] in self.jobs:
            return
        raw = json.loads(json.dumps(manifest))
        name = raw["metadata"]["name"]
        self.created.append(name)
        raw["metadata"] |= {
            "uid": f"uid-{len(self.created)}",
            "creationTimestamp": self.now.isoformat(),
        }
        for container in raw["spec"]["template"]["spec"]["containers"]:
            container["envFrom"] = [*container.get("envFrom", ()), *self.adds]
        self.jobs[name] = raw

    def remove(self, name: str) -> None:
        uid = self.jobs.pop(name)["metadata"]["uid"]
        self.pods = {key: pod for key, pod in self.pods.items() if owner(pod) != uid}

    def measure(self, *, code: int = 0) -> None:
        """End the pod of every Measure Job that has none."""
        for name, job in self.jobs.items():
            if "-measure-" in name and f"{name}-p" not in self.pods:
                self.pods[f"{name}-p"] = build_pod(job, code=code)

    def lose(self) -> None:
        """Complete every Measure Job that has not ended, and let its pod go unread."""
        for name, job in self.jobs.items():
            if "-measure-" in name and "status" not in job:
                ended = {"type": "Complete", "status": "True", "reason": "CompletionsReached"}
                at = {"lastTransitionTime": self.now.isoformat()}
                job["status"] = {"conditions": [ended | at], "completionTime": self.now.isoformat()}

    def names(self, role: str) -> list[str]:
        return [name for name in self.created if f"-{role}-" in name]

    def condition(self, wanted: str) -> tuple[str, str] | None:
        conditions = self.body.get("status", {}).get("conditions", [])
        return next(
            ((one["status"], one["reason"]) for one in conditions if one["type"] == wanted), None
        )

    def change(self, **spec: Any) -> None:
        generation = self.body["metadata"]["generation"] + 1
        self.body = {
            **self.body,
            "metadata": {**self.body["metadata"], "generation": generation},
            "spec": {**self.body["spec"], **spec},
        }


def owner(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def build_pod(job: Mapping[str, Any], *, code: int) -> dict[str, Any]:
    outcome = Outcome(
        exit_code=code,
        reason="DataInvalid" if code else "Measured",
        stage=Stage.MEASURE,
        message="m",
        plan_hash=job["metadata"]["annotations"]["langops.dev/plan-hash"],
        profile=None if code else PROFILE,
    )
    ended = {
        "exitCode": code,
        "message": outcome.to_termination_message(),
        "finishedAt": "2026-01-05T10:00:17Z",
    }
    name = job["metadata"]["name"]
    return {
        "metadata": {
            "name": f"{name}-p",
            "uid": f"{job['metadata']['uid']}-p",
            "ownerReferences": [{"uid": job["metadata"]["uid"], "controller": True}],
        },
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Failed" if code else "Succeeded",
            "startTime": "2026-01-05T10:00:02Z",
            "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}],
        },
    }


deaths = st.lists(st.integers(0, 4), max_size=4)


@QUICK
@given(deaths, deaths)
def test_whenever_the_operator_dies_the_text_is_measured_once_and_trained_once(
    before: list[int], after: list[int]
) -> None:
    cluster = Cluster(RUN)
    for written in before:
        cluster.reconcile(dies_after=written)
    cluster.reconcile()
    cluster.measure()
    for written in after:
        cluster.reconcile(dies_after=written)
    cluster.reconcile()
    assert cluster.names("measure") == ["swahili-assistant-1-measure-1"]
    assert cluster.names("train") == ["swahili-assistant-1-train-1"]
    assert cluster.condition("CorpusMeasured") == ("True", "Measured")


def test_a_policy_that_gives_every_pod_more_environment_makes_no_second_job() -> None:
    more = ({"secretRef": {"name": "proxy"}}, {"prefix": "CA_", "configMapRef": {"name": "ca"}})
    cluster = Cluster(RUN, adds=more)
    for _ in range(3):
        cluster.reconcile()
    assert cluster.created == ["swahili-assistant-1-measure-1"]


@QUICK
@given(deaths)
def test_once_said_nothing_is_written_again(before: list[int]) -> None:
    cluster = Cluster(PLAN)
    for written in before:
        cluster.reconcile(dies_after=written)
    cluster.reconcile()
    again = cluster.reconcile()
    assert (again.status, again.creates, again.events) == (None, (), ())
    cluster.measure()
    cluster.reconcile()
    cluster.now += HOUR
    assert cluster.reconcile() == Actions()


@QUICK
@given(st.lists(st.sampled_from(["train", "measure"]), max_size=4))
def test_a_profile_that_was_found_outlives_every_job(lost: list[str]) -> None:
    cluster = Cluster(RUN)
    cluster.reconcile()
    cluster.measure()
    cluster.reconcile()
    planned = {job["metadata"]["annotations"]["langops.dev/plan-hash"] for job in trained(cluster)}
    for role in lost:
        for name in [one for one in cluster.jobs if f"-{role}-" in one]:
            cluster.remove(name)
        cluster.now += HOUR
        cluster.reconcile()
    assert len(cluster.names("measure")) == 1
    assert {
        job["metadata"]["annotations"]["langops.dev/plan-hash"] for job in trained(cluster)
    } == planned


def trained(cluster: Cluster) -> list[dict[str, Any]]:
    return [job for name, job in cluster.jobs.items() if "-train-" in name]


@QUICK
@given(
    st.lists(
        st.sampled_from(
            [
                {"parameters": {"maxSeqLength": 1024}},
                {"parameters": {"learningRate": 0.001}},
                {"policy": "Guide"},
                {"resources": {"gpus": 0}},
                {"method": "LoRA"},
                {"backoffLimit": 1},
            ]
        ),
        max_size=4,
    )
)
def test_in_mode_plan_only_another_text_or_tokenizer_is_measured(changes: list[Any]) -> None:
    cluster = Cluster(PLAN)
    cluster.reconcile()
    cluster.measure()
    cluster.reconcile()
    for change in changes:
        cluster.change(**change)
        cluster.reconcile()
        assert cluster.condition("Complete") == ("True", "PlanReady")
    assert len(cluster.names("measure")) == 1
    cluster.change(model={"uri": "hf://org/another"})
    cluster.reconcile()
    assert cluster.condition("Complete") is None
    assert len(cluster.names("measure")) == 2
    cluster.measure()
    cluster.reconcile()
    assert (cluster.condition("Complete"), cluster.names("train")) == (("True", "PlanReady"), [])


@QUICK
@given(st.booleans())
def test_mode_run_goes_on_from_the_plan(is_measure_job_gone: bool) -> None:
    cluster = Cluster(PLAN)
    cluster.reconcile()
    cluster.measure()
    cluster.reconcile()
    planned = cluster.body["status"]["plan"]["hash"]
    if is_measure_job_gone:
        cluster.remove("swahili-assistant-1-measure-1")
    cluster.change(mode="Run")
    cluster.reconcile()
    [job] = trained(cluster)
    assert job["metadata"]["annotations"]["langops.dev/plan-hash"] == planned
    assert len(cluster.names("measure")) == 1
    assert cluster.condition("Complete") is None


def test_a_text_that_could_not_be_measured_ends_one_generation_and_no_other() -> None:
    cluster = Cluster(RUN)
    cluster.reconcile()
    cluster.measure(code=65)
    job = cluster.jobs["swahili-assistant-1-measure-1"]
    ended = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "m"}
    job["status"] = {"conditions": [ended], "failed": 1}
    cluster.reconcile()
    assert cluster.condition("Failed") == ("True", "DataInvalid")
    cluster.now += HOUR
    assert cluster.reconcile() == Actions()
    dataset = {"uri": "s3://corpora/corrected/"}
    cluster.change(languages=[{"tag": "sw", "dataset": dataset}])
    cluster.reconcile()
    assert cluster.condition("Failed") is None
    cluster.measure()
    cluster.reconcile()
    assert len(trained(cluster)) == 1


@QUICK
@given(st.integers(0, 5), deaths)
def test_a_lost_measurement_is_made_again_twice_at_most(losses: int, dying: list[int]) -> None:
    cluster = Cluster(RUN)
    for _ in range(losses):
        for written in dying:
            cluster.reconcile(dies_after=written)
        cluster.reconcile()
        cluster.lose()
        cluster.now += HOUR
    cluster.reconcile()
    cluster.measure()
    cluster.reconcile()
    assert len(cluster.names("measure")) == min(losses + 1, 3)
    if losses < 3:
        assert len(trained(cluster)) == 1
        return
    assert cluster.condition("Failed") == ("True", "OutcomeMissing")
    assert trained(cluster) == []
    cluster.now += HOUR
    assert cluster.reconcile() == Actions()


def test_a_lost_measurement_is_not_made_again_before_its_pause_is_over() -> None:
    cluster = Cluster(RUN)
    cluster.reconcile()
    cluster.lose()
    cluster.now += timedelta(seconds=50)
    waiting = cluster.reconcile()
    assert (waiting.creates, waiting.requeue_after_s) == ((), 10.0)
    assert cluster.condition("Reconciling") == ("True", "OutcomeMissing")
    again = cluster.reconcile()
    assert (again.status, again.events, again.requeue_after_s) == (None, (), 10.0)
    cluster.now += timedelta(seconds=10)
    assert len(cluster.reconcile().creates) == 2
    assert cluster.condition("Reconciling") == ("True", "Measuring")


def test_a_suspended_resource_does_not_measure_again_what_was_lost() -> None:
    cluster = Cluster(RUN)
    cluster.reconcile()
    cluster.lose()
    cluster.now += HOUR
    cluster.change(suspend=True)
    cluster.reconcile()
    assert len(cluster.names("measure")) == 1
    cluster.change(suspend=False)
    cluster.reconcile()
    assert len(cluster.names("measure")) == 2


@QUICK
@given(
    st.fixed_dictionaries(
        {"hash": st.just("wrong") | junk, "profile": st.just("{}") | st.just("[[]") | junk}
    )
    | junk
)
def test_a_profile_that_cannot_be_read_is_measured_again(kept: Any) -> None:
    body = RUN | {"status": {"measurement": kept}}
    cluster = Cluster(body)
    cluster.reconcile()
    assert len(cluster.names("measure")) == 1


@pytest.mark.parametrize("broken", ["{}", "[]", '{"languages": 7}', "{", '{"packed": "!"}'])
def test_a_kept_profile_of_another_version_is_measured_again(broken: str) -> None:
    cluster = Cluster(RUN)
    cluster.reconcile()
    cluster.measure()
    cluster.reconcile()
    kept = {**cluster.body["status"]["measurement"], "profile": broken}
    cluster.body = RUN | {"status": {"measurement": kept}}
    cluster.jobs.clear()
    cluster.pods.clear()
    cluster.reconcile()
    assert len(cluster.names("measure")) == 2


def test_sixteen_languages_fit_into_status() -> None:
    from finetune_operator.decide.plan.measurement import PROFILE_LIMIT, read_profile, write_profile

    many = PROFILE.model_copy(update={"languages": PROFILE.languages * 16})
    text = write_profile(many)
    assert len(text) <= PROFILE_LIMIT
    assert read_profile(text) == many
