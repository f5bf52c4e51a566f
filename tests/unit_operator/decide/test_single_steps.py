"""Answers of single steps and values that no golden case shows."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api import wire
from finetune_api.outcome import CorpusLanguage
from finetune_api.resource import LanguageFinetune
from finetune_api.status import CorpusStatus, ProgressStatus
from finetune_operator.decide.decide import decide
from finetune_operator.decide.manifests.pod import secret_environment_prefixes
from finetune_operator.decide.plan.accept import ResolvedPlan
from finetune_operator.decide.plan.measurement import MeasureState
from finetune_operator.decide.status.build_progress import is_behind
from finetune_operator.decide.status.build_status import _corpus
from finetune_operator.decide.steps.check_published import check_published
from finetune_operator.decide.steps.measure import _seconds_until_again, measure
from finetune_operator.decide.steps.plan_mode import _message as plan_message
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.observation import Observed, Rejection
from tests.unit_operator.decide.story import (
    CASES,
    CONTEXT,
    START,
    DecidedCase,
    build_state,
    context_of,
    read_yaml,
    tell,
)

BODY = read_yaml(CASES / "new/resource.yaml")


def ask(case: str, **changes: Any) -> Actions:
    """Decide a case with other observations."""
    reported = tell(case)
    observed = replace(reported.observed, **changes)
    return decide(observed, now=reported.now, context=context_of(case))


def with_spec(**spec: Any) -> LanguageFinetune:
    return LanguageFinetune.model_validate(BODY | {"spec": BODY["spec"] | spec})


def planned_checkpoints(**checkpoints: Any) -> dict[str, Any]:
    """Return `checkpoints` of the plan that a resource resolves to."""
    body = BODY | {"spec": BODY["spec"] | {"checkpoints": checkpoints}}
    state = build_state(DecidedCase(Observed(body=body), Actions(), START))
    plan = state.resolve_plan()
    assert isinstance(plan, ResolvedPlan)
    return plan.plan.checkpoints.model_dump()


def test_a_probe_gets_the_output_secret_alone() -> None:
    resource = with_spec(
        model=BODY["spec"]["model"] | {"secretRef": {"name": "model-key"}},
        output=BODY["spec"]["output"] | {"secretRef": {"name": "output-key"}},
    )
    names = {
        role: {name for _, name in secret_environment_prefixes(resource, role=role)}
        for role in (wire.ROLE_PROBE, wire.ROLE_TRAIN)
    }
    assert names == {
        wire.ROLE_PROBE: {"output-key"},
        wire.ROLE_TRAIN: {"model-key", "output-key"},
    }


def test_checkpoints_that_name_only_how_many_are_kept_have_the_usual_times() -> None:
    usual = planned_checkpoints()
    assert usual["every_seconds"] is not None
    assert planned_checkpoints(keep=7) == usual | {"keep": 7}
    assert planned_checkpoints(everySteps=50)["every_seconds"] is None


def test_nothing_of_a_measurement_is_kept_before_there_is_a_profile() -> None:
    assert MeasureState().kept is None
    assert build_state(tell("measure-running")).measured.kept is None
    assert build_state(tell("measured")).measured.kept is not None


def test_a_resource_that_may_not_run_reads_no_plan_and_is_not_measured() -> None:
    state = build_state(tell("fields-disagree"))
    assert state.read_plan(wanted="abc") is None
    assert measure(state) is None
    with pytest.raises(TypeError, match="spec"):
        state.require_plan()


@pytest.mark.parametrize(
    ("mine", "other", "behind"),
    [(None, 5, False), (5, None, False), (4, 5, True), (5, 5, False), (6, 5, False)],
)
def test_a_report_without_percent_is_behind_nothing(
    mine: int | None, other: int | None, *, behind: bool
) -> None:
    assert is_behind(ProgressStatus(percent=mine), ProgressStatus(percent=other)) is behind


def test_what_was_trained_on_keeps_what_only_measuring_knows() -> None:
    counted = CorpusLanguage(
        tag="sw",
        examples=90,
        validation_examples=10,
        tokens=1000,
        supervised_tokens=800,
        truncated=9,
        characters=2600,
        p50=10,
        p95=20,
        p99=30,
        longest=40,
    )
    measured = CorpusStatus(
        tag="sw", examples=100, tokens=1100, chars_per_token="2.6", warnings=["short"]
    )
    merged = _corpus(counted, measured=measured)
    assert (merged.examples, merged.tokens) == (90, 1000)
    assert (merged.chars_per_token, merged.warnings) == ("2.6", ["short"])
    assert merged.truncated_percent == "10.00"


def test_a_probe_that_may_not_be_created_does_not_hold_the_run_up() -> None:
    reported = tell("probe-new")
    job = reported.actions.creates[1]
    refused = Rejection(kind="Job", name=job["metadata"]["name"], message="forbidden")
    blocked = replace(reported.observed, rejected=(refused,))
    state = build_state(
        DecidedCase(blocked, reported.actions, reported.now), context=context_of("probe-new")
    )
    assert check_published(state) is None


def test_a_probe_that_ends_well_without_a_word_has_found_nothing_out() -> None:
    """Its pod says nothing, so the run begins and looks by itself."""
    reported = tell("probe-found-nothing")
    (pod,) = reported.observed.pods
    assert pod.trainer is not None
    silent = replace(pod, trainer=replace(pod.trainer, message=""))
    actions = ask("probe-found-nothing", pods=(silent,))
    reported_reason = {one["type"]: one["reason"] for one in (actions.status or {})["conditions"]}
    assert reported_reason["JobCreated"] != "LookedForFinishedWork"


def test_a_probe_that_cannot_be_scheduled_says_why() -> None:
    reported = tell("probe-running")
    (pod,) = reported.observed.pods
    (waiting,) = tell("unschedulable").observed.pods
    stuck = replace(pod, phase="Pending", trainer=None, unschedulable=waiting.unschedulable)
    actions = ask("probe-running", pods=(stuck,))
    assert actions.status is not None
    assert "Unschedulable" in {one["reason"] for one in actions.status["conditions"]}


def test_a_lost_measurement_without_an_end_is_repeated_at_once() -> None:
    state = build_state(tell("measure-lost"))
    job = state.measured.job
    assert job is not None
    assert _seconds_until_again(state, job=job) == pytest.approx(27)
    assert _seconds_until_again(state, job=replace(job, complete=None)) == 0
    later = replace(state, now=state.now + timedelta(hours=1))
    assert _seconds_until_again(later, job=job) == 0


def test_a_plan_whose_steps_are_unknown_names_none() -> None:
    plan = build_state(tell("plan-ready")).require_plan()
    assert "steps of" in plan_message(plan)
    assert "steps of" not in plan_message(replace(plan, total_steps=None))


def test_a_suspended_run_without_its_job_goes_on_at_its_checkpoint() -> None:
    """The Job was deleted while the run was suspended; its checkpoint stands in status."""
    reported = tell("suspend-stopped")
    body = {**reported.observed.body, "status": reported.actions.status}
    body["spec"] = body["spec"] | {"suspend": True}
    actions = decide(
        Observed(body=body, pinned_plan=reported.observed.pinned_plan),
        now=reported.now,
        context=CONTEXT,
    )
    status = actions.status or body["status"]
    assert "goes on there" in str(status["message"])
