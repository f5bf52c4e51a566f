"""`deadlinePolicy: PublishBest`: when the best is published at a deadline, and when the run just fails."""

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.decide.decide import decide
from finetune_operator.decide.steps.publish_at_deadline import publishes_best
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.observation import Observed, ObservedJob
from tests.unit_operator.decide.story import CONTEXT, build_raw_job, tell

ASKED = tell("deadline-best-asked").observed
CREATED = tell("deadline-best-created")
PLAN = CREATED.observed.pinned_plan
NOW = CREATED.now


def ask(observed: Observed = ASKED, **spec: Any) -> Actions:
    body = {**observed.body} | {"spec": observed.body["spec"] | spec}
    return decide(replace(observed, body=body, pinned_plan=PLAN), now=NOW, context=CONTEXT)


def ending(actions: Actions) -> tuple[str, str]:
    """Return phase and reason of the failure."""
    assert actions.status is not None
    reasons = [one["reason"] for one in actions.status["conditions"] if one["type"] == "Failed"]
    return actions.status["phase"], *reasons


@pytest.mark.parametrize(
    "spec",
    [None, "x", {}, {"deadlinePolicy": "PublishBest"}, {"activeDeadlineSeconds": 60}],
    ids=str,
)
def test_without_policy_and_deadline_nothing_is_asked_for(spec: object) -> None:
    assert not publishes_best({"spec": spec})


def test_the_job_that_publishes_does_no_step_and_has_limits_of_its_own() -> None:
    _, job = CREATED.actions.creates
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert job["metadata"]["name"] == "swahili-assistant-1-train-3"
    assert container["args"] == ["publish"]
    assert {"name": "FINETUNE_DEADLINE_SECONDS", "value": "7200"} in container["env"]
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["backoffLimit"]) == (3600, 2)


def test_a_run_that_may_only_fail_fails() -> None:
    assert ending(ask(deadlinePolicy="Fail")) == ("Failed", "DeadlineExceeded")


def test_a_run_without_a_checkpoint_fails() -> None:
    (pod,) = ASKED.pods
    assert pod.trainer is not None
    silent = replace(pod, trainer=replace(pod.trainer, message=""))
    assert ending(ask(replace(ASKED, pods=(silent,)))) == ("Failed", "DeadlineExceeded")


def test_a_suspended_run_takes_no_gpu_to_publish_before_it_is_resumed() -> None:
    actions = ask(suspend=True)
    assert (actions.creates, actions.lookups) == ((), None)
    assert actions.status is not None
    assert actions.status["phase"] == "Suspended"
    assert actions.status["message"] == (
        "The run reached its deadline and is suspended; set spec.suspend to false, and what it saved at "
        "step 812 is published."
    )
    assert len(ask(suspend=False).creates) == 2


def test_a_spec_that_is_refused_by_now_fails() -> None:
    assert ending(ask(policy="Astrology")) == ("Failed", "DeadlineExceeded")


def test_a_plan_that_is_gone_fails() -> None:
    actions = decide(replace(ASKED, pinned_plan=""), now=NOW, context=CONTEXT)
    assert ending(actions) == ("Failed", "DeadlineExceeded")


def test_another_end_than_the_deadline_publishes_nothing() -> None:
    (job,) = ASKED.jobs
    assert job.failure is not None
    other = replace(job, failure=replace(job.failure, reason="BackoffLimitExceeded"))
    actions = ask(replace(ASKED, jobs=(other,)))
    assert (actions.creates, ending(actions)[0]) == ((), "Failed")


def test_a_refused_create_is_told_and_tried_again() -> None:
    refused = replace(ASKED, name_conflicts=("swahili-assistant-1-train-3",))
    actions = ask(refused)
    assert actions.status is not None
    assert (actions.status["phase"], actions.requeue_after_s) == ("Pending", 300.0)


def test_what_needed_more_memory_gets_it_to_publish_too() -> None:
    (job,) = ASKED.jobs
    more = replace(job, attempt=2, memory_limit="48Gi")
    _, closing = ask(replace(ASKED, jobs=(more,))).creates
    given = closing["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert given["limits"]["memory"] == given["requests"]["memory"] == "48Gi"


def closing_job(**status: Any) -> ObservedJob:
    raw = build_raw_job({"madeBy": "deadline-best-created", "status": status})
    return ObservedJob.from_object(raw)


def test_the_limits_of_the_spec_are_not_written_to_the_job_that_publishes() -> None:
    jobs = (*ASKED.jobs, closing_job(active=1, startTime="2026-01-05T12:00:13Z"))
    actions = ask(replace(ASKED, jobs=jobs))
    assert [patch.spec for patch in actions.patches] == [{}]


def test_a_job_that_publishes_and_takes_too_long_ends_the_run() -> None:
    failed = {
        "type": "Failed",
        "status": "True",
        "reason": "DeadlineExceeded",
        "lastTransitionTime": "2026-01-05T13:00:13Z",
    }
    actions = ask(replace(ASKED, jobs=(*ASKED.jobs, closing_job(conditions=[failed]))))
    assert ending(actions) == ("Failed", "DeadlineExceeded")
    assert actions.status is not None
    assert actions.status["message"] == (
        "The run reached its deadline, and its best adapter was not published within 3600 seconds more. "
        "Its checkpoints are kept."
    )


def test_a_lost_job_that_publishes_is_made_again_while_the_first_is_there() -> None:
    stored = json.loads(json.dumps(CREATED.actions.status))
    body = dict(ASKED.body) | {"status": stored}
    actions = ask(replace(ASKED, body=body))
    assert [one["metadata"]["name"] for one in actions.creates][1:] == [
        "swahili-assistant-1-train-3"
    ]
