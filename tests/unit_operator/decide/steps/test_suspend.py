"""Suspension and checkpoints: single decisions that no golden case tells."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from finetune_api.status import CheckpointStatus, LanguageFinetuneStatus, ProgressStatus
from finetune_operator.decide.decide import decide
from finetune_operator.decide.job.checkpoint_status import (
    decide_grace,
    describe_place,
    find_checkpoint,
    steps_of,
)
from finetune_operator.decide.job.suspend_request import decide_hold, is_held
from finetune_operator.decide.values.actions import Actions, Patch, merge_patches
from finetune_operator.decide.values.observation import Observed, ObservedJob, ObservedPod
from tests.unit_operator.decide.story import (
    CASES,
    CONTEXT,
    START,
    build_raw_job,
    build_raw_pod,
    read_yaml,
    tell,
)

BODY = read_yaml(CASES / "new/resource.yaml")
SUSPENDED = BODY | {"spec": BODY["spec"] | {"suspend": True}}
LABELS = build_raw_job({})["metadata"]["labels"]
HELD = {"langops.dev/suspended-by-spec": "true"}
NOON = "2026-01-05T12:00:00Z"


def job(**special: Any) -> ObservedJob:
    return ObservedJob.from_object(build_raw_job(special))


def saved(step: int) -> CheckpointStatus:
    return CheckpointStatus(step=step, uri=f"s3://b/step-{step}", time=NOON)


def phase(body: Mapping[str, Any], observed: ObservedJob) -> str:
    actions = decide(Observed(body=body, jobs=(observed,)), now=START, context=CONTEXT)
    assert actions.status is not None
    return str(actions.status["phase"])


@pytest.mark.parametrize("value", [False, "true", 1, None], ids=str)
def test_only_true_suspends(value: object) -> None:
    assert not is_held({"spec": {"suspend": value}})


def test_a_job_that_somebody_suspended_by_hand_gives_its_place_back_too() -> None:
    hold = decide_hold(job(spec={"suspend": True}), body=SUSPENDED)
    assert hold.patch is None
    assert hold.delete is not None
    assert hold.delete.keeps_until_stopped


def test_a_job_that_somebody_suspended_by_hand_is_not_resumed() -> None:
    assert decide_hold(job(spec={"suspend": True}), body=BODY).patch is None


def test_a_job_that_somebody_resumed_by_hand_is_suspended_again() -> None:
    hold = decide_hold(job(annotations=HELD), body=SUSPENDED)
    assert hold.patch is not None
    assert hold.patch.spec == {"suspend": True}


@pytest.mark.parametrize(
    "special",
    [
        {"metadata": {"deletionTimestamp": NOON}},
        {"status": {"conditions": [{"type": "Complete", "status": "True"}]}},
    ],
    ids=["deleted", "complete"],
)
def test_a_job_that_goes_or_has_ended_is_not_suspended(special: dict[str, Any]) -> None:
    observed = job(**special)
    assert decide_hold(observed, body=SUSPENDED).job == observed


def test_a_job_whose_pod_is_not_there_yet_is_suspended_at_once() -> None:
    assert phase(SUSPENDED, job()) == "Suspended"


def test_a_spec_that_is_refused_now_still_suspends_its_job() -> None:
    spec = BODY["spec"] | {"suspend": True, "policy": "Astrology"}
    actions: Actions = decide(
        Observed(body=BODY | {"spec": spec}, jobs=(job(),)), now=START, context=CONTEXT
    )
    assert [patch.spec for patch in actions.patches] == [{"suspend": True}]


def test_the_newest_checkpoint_of_the_run_counts_whoever_told_of_it() -> None:
    before = LanguageFinetuneStatus(
        run=1, checkpoint=saved(200), progress=ProgressStatus(run=1, checkpoint=saved(300))
    )
    assert find_checkpoint(before, pods=(), run=1) == saved(300)


def needing(step: int, grace_s: int | None) -> CheckpointStatus:
    return saved(step).model_copy(update={"grace_seconds": grace_s})


def test_the_longest_grace_that_was_measured_stays_known() -> None:
    resumed = ProgressStatus(run=1, checkpoint=needing(300, None))
    before = LanguageFinetuneStatus(run=1, checkpoint=needing(200, 480), progress=resumed)
    assert find_checkpoint(before, pods=(), run=1) == needing(300, 480)


def test_no_grace_period_is_longer_than_a_drain_waits() -> None:
    assert decide_grace(needing(200, 480)) == 480
    assert decide_grace(needing(200, 100_000)) == 3600
    assert (decide_grace(needing(200, None)), decide_grace(None)) == (None, None)


def test_a_job_that_is_made_again_gives_its_pods_the_time_that_was_measured() -> None:
    shown = needing(200, 480).model_dump(by_alias=True)
    status = json.loads(json.dumps(tell("running").actions.status)) | {"checkpoint": shown}
    again = decide(Observed(body=BODY | {"status": status}), now=START, context=CONTEXT)
    _, made = again.creates
    assert made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 480


def test_a_checkpoint_of_an_earlier_run_is_forgotten() -> None:
    before = LanguageFinetuneStatus(
        run=1, checkpoint=saved(200), progress=ProgressStatus(run=1, checkpoint=saved(300))
    )
    assert find_checkpoint(before, pods=(), run=2) is None


def test_the_pods_own_count_of_steps_comes_before_the_plans() -> None:
    reported = LanguageFinetuneStatus(progress=ProgressStatus(run=1, total_steps=1200))
    assert (steps_of(reported, run=1), steps_of(reported, run=2)) == (1200, None)


def test_a_place_is_told_with_the_steps_that_are_known() -> None:
    assert describe_place(saved(1400), total_steps=12000) == "at step 1,400 of 12,000"
    assert describe_place(saved(1400), total_steps=None) == "at step 1,400"
    assert describe_place(None, total_steps=12000) == "before its first checkpoint"


def test_two_changes_of_one_job_are_one_write() -> None:
    one = Patch("Job", "ml", "j", "u", spec={"suspend": True}, annotations={"a": "1"})
    other = Patch("Job", "ml", "j", "u", spec={"backoffLimit": 1}, annotations={"b": None})
    (merged,) = merge_patches([one, other])
    assert merged.spec == {"suspend": True, "backoffLimit": 1}
    assert merged.annotations == {"a": "1", "b": None}


def test_a_queued_job_whose_pod_is_seen_ended_was_evicted_though_status_was_lost() -> None:
    evicted = build_raw_job(
        {
            "metadata": {"labels": {**LABELS, "kueue.x-k8s.io/queue-name": "gpus"}},
            "spec": {"suspend": True},
        }
    )
    pod = build_raw_pod({"status": {"phase": "Failed"}}, job=evicted)
    observed = Observed(
        body=BODY,
        jobs=(ObservedJob.from_object(evicted),),
        pods=(ObservedPod.from_object(pod),),
    )
    status = decide(observed, now=START, context=CONTEXT).status
    assert status is not None
    assert status["message"] == (
        "Queue gpus took the run's place back before its first checkpoint; Job "
        "swahili-assistant-1-train-1 waits to be admitted again and then begins again."
    )
