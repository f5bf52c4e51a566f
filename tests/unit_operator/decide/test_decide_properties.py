"""What holds of `decide` for every resource and every cluster, however broken."""

import json
import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.outcome import Outcome
from finetune_operator.decide.decide import decide
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.observation import (
    JobEvent,
    Observed,
    ObservedJob,
    ObservedPod,
    Rejection,
)
from tests.unit_operator.decide.story import (
    CASES,
    CONTEXT,
    JOB_UID,
    START,
    build_raw_job,
    read_yaml,
)

BODY = read_yaml(CASES / "new/resource.yaml")
JOB = build_raw_job({})
PLAN = decide(Observed(body=BODY), now=START, context=CONTEXT).creates[0]["data"]["plan.json"]
PLAN_HASH = JOB["metadata"]["annotations"]["langops.dev/plan-hash"]
LATER = START + timedelta(hours=2)
QUICK = settings(
    # Enough for every push; DECIDE_EXAMPLES=5000 before a release.
    max_examples=int(os.environ.get("DECIDE_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)

times = st.sampled_from(
    [None, "2026-01-05T10:00:00Z", "2026-01-05T11:59:50Z", "0001-01-01T00:00:00+23:59", "soon", 7]
)
texts = st.sampled_from(
    [
        "",
        "Failed",
        "Evicted",
        "OOMKilled",
        "ErrImagePull",
        "ImagePullBackOff",
        "CreateContainerConfigError",
        "ContainerCreating",
        "DeadlineExceeded",
        "BackoffLimitExceeded",
        "PodFailurePolicy",
        "PreemptionByScheduler",
        "Unschedulable",
        'secret "a" not found',
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        "x" * 5000,
    ]
) | st.text(max_size=20)
junk: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
outcomes = st.sampled_from(
    [
        "",
        "{",
        json.dumps({"exitCode": 0, "reason": "Done", "stage": "Publish", "message": "m"}),
        Outcome(
            exit_code=0,
            reason="Done",
            stage="Publish",
            message="m",
            plan_hash=PLAN_HASH,
            published={
                "uri": "s3://b/p",
                "manifestSha256": "a" * 64,
                "sizeBytes": 1,
                "files": 1,
            },
        ).to_termination_message(),
        Outcome(
            exit_code=75,
            reason="Interrupted",
            stage="Train",
            message="m",
            checkpoint={"step": 8, "uri": "s3://b/step-8", "time": "2026-01-05T11:00:00Z"},
        ).to_termination_message(),
        Outcome(
            exit_code=65, reason="not a reason!", stage="Validate", message="line 37"
        ).to_termination_message(),
    ]
)


@st.composite
def conditions(draw: st.DrawFn, types: list[str]) -> list[Any]:
    one = st.fixed_dictionaries(
        {
            "type": st.sampled_from(types),
            "status": st.sampled_from(["True", "False", "Unknown", 3]),
            "reason": texts,
            "message": texts,
            "lastTransitionTime": times,
        }
    )
    return draw(st.lists(one | junk, max_size=3))


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(json.dumps(JOB))
    raw["status"] = draw(
        st.fixed_dictionaries({"conditions": conditions(["Complete", "Failed", "Suspended"])})
        | junk
    )
    raw["spec"]["suspend"] = draw(st.sampled_from([False, False, True, "yes"]))
    raw["metadata"]["annotations"] |= draw(
        st.sampled_from([{}, {}, {"langops.dev/suspended-by-spec": "true"}])
    )
    raw["metadata"]["labels"] |= draw(
        st.sampled_from([{}, {}, {"kueue.x-k8s.io/queue-name": "gpus"}])
    )
    raw["metadata"]["deletionTimestamp"] = draw(times)
    raw["metadata"]["labels"]["langops.dev/run"] = draw(
        st.sampled_from(["1", "1", "2", "x", "9" * 9])
    )
    return raw


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    waiting = st.fixed_dictionaries({"reason": texts, "message": texts})
    terminated = st.fixed_dictionaries(
        {
            "exitCode": st.sampled_from([0, 0, 1, 65, 69, 75, 78, 137, 143, 255, "0"]),
            "reason": texts,
            "message": outcomes,
            "finishedAt": times,
        }
    )
    state: Any = draw(
        st.fixed_dictionaries({"waiting": waiting})
        | st.fixed_dictionaries({"terminated": terminated})
        | st.just({"running": {}})
        | junk
    )
    number = draw(st.integers(1, 3))
    return {
        "metadata": {
            "name": f"p{number}",
            "uid": draw(st.sampled_from([f"uid-{number}", "u" * 300])),
            "creationTimestamp": draw(times),
            "deletionTimestamp": draw(times),
            "ownerReferences": [{"uid": JOB_UID, "controller": True}],
        },
        "spec": {"nodeName": draw(texts)},
        "status": {
            "phase": draw(st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Odd"])),
            "reason": draw(texts),
            "message": draw(texts),
            "startTime": draw(times),
            "conditions": draw(conditions(["PodScheduled", "DisruptionTarget"])),
            "containerStatuses": draw(st.just([{"name": "trainer", "state": state}]) | junk),
        },
    }


@st.composite
def statuses(draw: st.DrawFn) -> Any:
    known = st.fixed_dictionaries(
        {},
        optional={
            "observedGeneration": st.integers(-1, 2) | junk,
            "run": st.integers(-1, 3) | st.just(10**30) | junk,
            "phase": junk,
            "attempts": junk,
            "plan": junk,
            "progress": junk,
            "conditions": conditions(["Accepted", "Resolved", "JobCreated", "Running", "Odd"]),
        },
    )
    return draw(known | junk)


@st.composite
def clusters(draw: st.DrawFn) -> Observed:
    body = json.loads(json.dumps(BODY))
    body["status"] = draw(statuses())
    body["metadata"]["generation"] = draw(st.integers(1, 2))
    held = body["spec"] | {"suspend": True}
    best = body["spec"] | {"activeDeadlineSeconds": 7200, "deadlinePolicy": "PublishBest"}
    body["spec"] = draw(st.sampled_from([body["spec"], body["spec"], held, best]) | junk)
    events = [
        {"reason": draw(texts), "message": draw(texts), "lastTimestamp": draw(times)}
        for _ in range(draw(st.integers(0, 2)))
    ]
    drawn = draw(st.lists(jobs(), max_size=2))
    if body["spec"] == best:
        for raw in drawn:
            raw["spec"]["activeDeadlineSeconds"] = best["activeDeadlineSeconds"]
    for number, raw in enumerate(drawn[1:]):
        raw["metadata"] |= {"uid": f"{JOB_UID}{number}", "name": f"another-{number}"}
    return Observed(
        body=body,
        jobs=tuple(ObservedJob.from_object(raw) for raw in drawn),
        pods=tuple(ObservedPod.from_object(raw) for raw in draw(st.lists(pods(), max_size=3))),
        job_events=tuple(JobEvent.from_object(raw) for raw in events),
        name_conflicts=draw(st.sampled_from([(), (), ("taken",)])),
        rejected=draw(st.sampled_from([(), (), (Rejection("Job", "j", "exceeded quota: q"),)])),
    )


def ask(observed: Observed) -> Actions:
    actions = decide(observed, now=LATER, context=CONTEXT)
    if actions.lookups is None or not actions.lookups.pinned_plan:
        return actions
    # As the shell does: the plan is read where it is asked for.
    return decide(replace(observed, pinned_plan=PLAN), now=LATER, context=CONTEXT)


def with_effects(observed: Observed, actions: Actions) -> Observed:
    """Return what the cluster shows once the actions are carried out and nothing else happens."""
    body = dict(observed.body)
    if actions.status is not None:
        body["status"] = json.loads(json.dumps(actions.status))
    created = tuple(ObservedJob.from_object(one) for one in actions.creates if one["kind"] == "Job")
    deleted = {one.name for one in actions.deletes if not one.keeps_until_stopped}
    going = {one.name for one in actions.deletes if one.keeps_until_stopped}
    kept = tuple(
        replace(patched(job, actions=actions), deleting=job.deleting or job.name in going)
        for job in observed.jobs
        if job.name not in deleted
    )
    return Observed(
        body=body,
        jobs=kept + created,
        pods=observed.pods,
        job_events=observed.job_events,
        name_conflicts=observed.name_conflicts,
        rejected=observed.rejected,
    )


def patched(job: ObservedJob, *, actions: Actions) -> ObservedJob:
    """Return the Job as the patches leave it."""
    fields = {
        "suspend": "suspended",
        "backoffLimit": "backoff_limit",
        "activeDeadlineSeconds": "deadline_s",
        "ttlSecondsAfterFinished": "ttl_s",
    }
    for patch in actions.patches:
        if patch.name != job.name or not job.uid:
            continue
        job = replace(job, **{fields[name]: value for name, value in patch.spec.items()})
        marks = patch.annotations
        job = replace(
            job,
            held=marks.get("langops.dev/suspended-by-spec", "true" if job.held else None) == "true",
            safe_to_preempt=marks.get("langops.dev/safe-to-preempt") or job.safe_to_preempt,
        )
    return job


def true_types(status: dict[str, Any]) -> set[str]:
    return {one["type"] for one in status["conditions"] if one["status"] == "True"}


@QUICK
@given(junk)
def test_it_answers_for_anything_in_place_of_a_resource(body: Any) -> None:
    observed = Observed(body=body if isinstance(body, dict) else {"metadata": body, "spec": body})
    assert ask(observed) == ask(observed)


@QUICK
@given(clusters())
def test_the_same_cluster_is_always_the_same_answer(observed: Observed) -> None:
    assert ask(observed) == ask(observed)


@QUICK
@given(clusters())
def test_once_carried_out_nothing_is_left_to_write(observed: Observed) -> None:
    first = ask(observed)
    second = ask(with_effects(observed, first))
    assert (second.status, second.creates, second.events) == (None, (), ())
    assert (second.patches, second.deletes) == ((), ())


@QUICK
@given(clusters())
def test_at_most_one_of_complete_and_failed_is_true_and_never_ready(observed: Observed) -> None:
    status = ask(observed).status
    if status is not None:
        assert len(true_types(status) & {"Complete", "Failed"}) <= 1
        assert "Ready" not in {one["type"] for one in status["conditions"]}


@QUICK
@given(clusters())
def test_no_name_is_created_twice_and_none_that_is_there(observed: Observed) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in ask(observed).creates]
    assert len(names) == len(set(names))
    assert not {name for _, name in names} & {job.name for job in observed.jobs}


@QUICK
@given(clusters())
def test_progress_is_never_written(observed: Observed) -> None:
    assert "progress" not in (ask(observed).status or {})


@QUICK
@given(clusters(), st.sampled_from(["Complete", "Failed"]))
def test_what_has_ended_stays_ended_whatever_happens(observed: Observed, end: str) -> None:
    condition = {
        "type": end,
        "status": "True",
        "reason": "Done",
        "message": "m",
        "lastTransitionTime": "2026-01-05T10:00:00Z",
    }
    generation = observed.body["metadata"]["generation"]
    status = {"observedGeneration": generation, "conditions": [condition]}
    ended = Observed(
        body={**observed.body, "status": status}, jobs=observed.jobs, pods=observed.pods
    )
    assert ask(ended) == Actions()


@QUICK
@given(clusters())
def test_success_needs_proof(observed: Observed) -> None:
    status = ask(observed).status
    if status is not None and "Complete" in true_types(status):
        assert status["output"]["manifestSha256"] == "a" * 64
        assert any(pod.trainer is not None and pod.trainer.exit_code == 0 for pod in observed.pods)


@QUICK
@given(clusters())
def test_what_a_queue_or_somebody_else_suspends_is_never_resumed(observed: Observed) -> None:
    ours = {job.uid for job in observed.jobs if job.held and job.suspended}
    resumed = [one for one in ask(observed).patches if one.spec.get("suspend") is False]
    assert all(one.uid in ours for one in resumed)


@QUICK
@given(clusters())
def test_nothing_is_created_for_what_is_suspended(observed: Observed) -> None:
    if observed.body["spec"] == BODY["spec"] | {"suspend": True}:
        assert ask(observed).creates == ()


@QUICK
@given(clusters())
def test_the_suspend_of_a_queued_job_is_never_written(observed: Observed) -> None:
    queued = {job.uid for job in observed.jobs if job.queue and not job.held}
    assert not [one for one in ask(observed).patches if one.uid in queued and "suspend" in one.spec]


@QUICK
@given(clusters())
def test_a_second_look_is_never_due_at_once(observed: Observed) -> None:
    after = ask(observed).requeue_after_s
    assert after is None or after > 0
