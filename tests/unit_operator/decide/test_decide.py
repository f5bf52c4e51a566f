"""Single decisions that no golden case tells."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.outcome import CorpusLanguage, Outcome, Published, RunSummary, Stage
from finetune_operator.decide.decide import decide
from finetune_operator.decide.values.actions import Actions, Lookups
from finetune_operator.decide.values.observation import JobEvent, Observed, ObservedJob, ObservedPod
from tests.unit_operator.decide.story import (
    CASES,
    CONTEXT,
    JOB_UID,
    START,
    build_raw_job,
    build_raw_pod,
    read_yaml,
)

BODY = read_yaml(CASES / "new/resource.yaml")
END = "2026-01-05T11:00:00Z"
LATER = START + timedelta(hours=2)


def ask(observed: Observed, *, now: datetime = LATER) -> Actions:
    return decide(observed, now=now, context=CONTEXT)


def with_job(status: Mapping[str, Any], *pods: Mapping[str, Any], **spec: Any) -> Observed:
    raw = build_raw_job({"status": status})
    return Observed(
        body=BODY | {"spec": BODY["spec"] | spec},
        jobs=(ObservedJob.from_object(raw),),
        pods=tuple(ObservedPod.from_object(build_raw_pod(pod, job=raw)) for pod in pods),
    )


def ended_job(kind: str, reason: str = "") -> dict[str, Any]:
    condition = {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": "it ended",
        "lastTransitionTime": END,
    }
    return {"conditions": [condition]}


def condition(actions: Actions, wanted: str) -> Any:
    assert actions.status is not None
    return next((one for one in actions.status["conditions"] if one["type"] == wanted), None)


def terminated(code: int, message: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": message, "finishedAt": END}}
    containers = [{"name": "trainer", "state": state}]
    return {"node": "gpu-1", "status": {"phase": "Failed", "containerStatuses": containers}}


def test_a_resource_without_a_name_or_uid_is_left_alone() -> None:
    nameless = Observed(body={"metadata": {}, "spec": {}})
    unsaved = Observed(body=BODY | {"metadata": {"name": "a", "namespace": "b"}})
    assert (ask(nameless), ask(unsaved)) == (Actions(), Actions())


def test_a_resource_that_is_being_deleted_is_left_alone() -> None:
    metadata = BODY["metadata"] | {"deletionTimestamp": END}
    assert ask(Observed(body=BODY | {"metadata": metadata})) == Actions()


def test_a_job_of_another_owner_is_not_ours() -> None:
    raw = build_raw_job({})
    raw["metadata"]["ownerReferences"][0]["uid"] = "another"
    actions = ask(Observed(body=BODY, jobs=(ObservedJob.from_object(raw),)))
    assert [one["kind"] for one in actions.creates] == ["ConfigMap", "Job"]


def test_the_run_is_known_from_its_job_where_the_status_was_lost() -> None:
    raw = build_raw_job({})
    raw["metadata"]["labels"]["langops.dev/run"] = "3"
    actions = ask(Observed(body=BODY, jobs=(ObservedJob.from_object(raw),)))
    assert actions.status is not None
    assert (actions.status["run"], actions.creates) == (3, ())


def test_a_complete_job_without_pods_is_waited_for_and_then_failed() -> None:
    observed = with_job(ended_job("Complete"))
    soon = ask(observed, now=datetime.fromisoformat(END) + timedelta(seconds=10))
    assert (soon.requeue_after_s, condition(soon, "Failed")) == (20.0, None)
    late = ask(observed, now=datetime.fromisoformat(END) + timedelta(seconds=30))
    assert condition(late, "Failed")["reason"] == "OutcomeMissing"
    assert condition(late, "Failed")["message"] == (
        "Job swahili-assistant-1-train-1 is complete and its pod is gone, so nothing proves what was "
        "published; delete the resource and apply it again: a finished adapter is found and not "
        "trained again."
    )


def test_an_ended_job_without_a_time_is_not_waited_for() -> None:
    status = ended_job("Failed", "BackoffLimitExceeded")
    status["conditions"][0]["lastTransitionTime"] = None
    assert condition(ask(with_job(status)), "Failed")["reason"] == "BackoffLimitExceeded"


def test_a_pod_killed_with_exit_code_0_is_followed_by_another() -> None:
    pod = terminated(0)
    pod["status"]["conditions"] = [
        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    ]
    actions = ask(with_job({}, pod))
    assert condition(actions, "Running")["reason"] == "Preempted"
    assert condition(actions, "Failed") is None


def test_a_second_pod_that_is_refused_is_told_from_the_events() -> None:
    observed = with_job({"failed": 1}, terminated(69))
    asked = ask(observed)
    assert (asked.lookups, condition(asked, "Running")["reason"]) == (
        Lookups(job_events=True),
        "ServiceUnavailable",
    )
    event = JobEvent("FailedCreate", 'pods "x" is forbidden: exceeded quota: gpu', LATER)
    reported = ask(replace(observed, job_events=(event,)))
    assert condition(reported, "Running")["reason"] == "QuotaExceeded"


def test_between_two_pods_time_is_given_to_the_job_controller() -> None:
    soon = ask(
        with_job({"failed": 1}, terminated(69)),
        now=datetime.fromisoformat(END) + timedelta(seconds=12),
    )
    assert (soon.lookups, soon.requeue_after_s) == (None, 18.0)


def test_a_job_that_runs_is_followed_although_its_spec_is_refused_now() -> None:
    running = {
        "node": "gpu-1",
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "trainer", "state": {"running": {}}}],
        },
    }
    actions = ask(with_job({}, running, image="other:1"))
    assert actions.status is not None
    assert actions.status["phase"] == "Running"
    assert "parameters" not in actions.status
    assert condition(actions, "Resolved")["message"] == (
        "Job swahili-assistant-1-train-1 keeps the plan it began with, 86b51a3d, although the spec "
        "is refused now (spec.image is other:1; allowed are: none. Leave it out, or ask the "
        "administrator to add it to FINETUNE_ALLOWED_IMAGES (chart value trainer.allowedImages)); "
        "create another resource to train by the new one."
    ).replace("86b51a3d", plan_hash8())


def plan_hash8() -> str:
    annotations = build_raw_job({})["metadata"]["annotations"]
    return str(annotations["langops.dev/plan-hash"])[:8]


def test_reasons_are_resolved_again_where_their_condition_was_lost() -> None:
    first = ask(Observed(body=BODY))
    assert first.status is not None
    status = json.loads(json.dumps(first.status))
    status["conditions"] = [one for one in status["conditions"] if one["type"] != "Resolved"]
    observed = with_job({})
    again = ask(replace(observed, body=dict(observed.body) | {"status": status}), now=START)
    assert condition(again, "Resolved") == condition(first, "Resolved") | {
        "lastTransitionTime": "2026-01-05T10:00:00Z"
    }


def test_what_is_not_supported_yet_is_refused() -> None:
    parameters = {"embeddingLearningRate": 1e-5}
    actions = ask(Observed(body=BODY | {"spec": BODY["spec"] | {"parameters": parameters}}))
    assert condition(actions, "Accepted")["reason"] == "InvalidSpec"


def test_a_run_without_evaluation_or_tokens_still_completes() -> None:
    language = CorpusLanguage(
        tag="sw",
        examples=0,
        validation_examples=0,
        tokens=0,
        supervised_tokens=0,
        characters=0,
        p50=0,
        p95=0,
        p99=0,
        longest=0,
        truncated=0,
    )
    outcome = Outcome(
        exit_code=0,
        reason="Done",
        stage=Stage.PUBLISH,
        message="m",
        published=Published(uri="s3://b/p", manifest_sha256="a" * 64, size_bytes=1, files=1),
        summary=RunSummary(steps=1, total_steps=1, epochs=1),
        plan_hash=build_raw_job({})["metadata"]["annotations"]["langops.dev/plan-hash"],
        corpus=(language,),
    )
    actions = ask(with_job({}, terminated(0, outcome.to_termination_message())))
    assert actions.status is not None
    assert actions.status["phase"] == "Complete"
    assert "charsPerToken" not in actions.status["corpus"][0]
    assert "gpuMemory" not in actions.status
    assert "evaluation" not in actions.status


def done(*, shown: Mapping[str, Any] | None = None) -> Actions:
    outcome = Outcome(
        exit_code=0,
        reason="Done",
        stage=Stage.PUBLISH,
        message="m",
        published=Published(uri="s3://b/p", manifest_sha256="a" * 64, size_bytes=1, files=1),
        summary=RunSummary(steps=30, total_steps=40, epochs=2.5, final_loss=2.25),
        plan_hash=build_raw_job({})["metadata"]["annotations"]["langops.dev/plan-hash"],
    )
    observed = with_job({}, terminated(0, outcome.to_termination_message()))
    status = {"run": 1, "progress": shown or {}}
    return ask(replace(observed, body={**observed.body, "status": status}))


def test_a_finished_run_shows_all_of_its_progress_though_its_last_report_got_lost() -> None:
    whole = {
        "percent": 100,
        "percentText": "100%",
        "etaSeconds": 0,
        "etaText": "0s",
        "step": 30,
        "totalSteps": 40,
        "epoch": "2.50",
        "loss": "2.2500",
        "updatedAt": "2026-01-05T12:00:00Z",
        "run": 1,
    }
    assert done().progress == whole
    behind = {"percent": 60, "step": 20, "evalLoss": "2.5", "run": 1}
    assert done(shown=behind).progress == whole | {"evalLoss": "2.5"}
    assert done(shown=behind | {"percent": 100, "run": 7}).progress == whole


def test_progress_that_is_shown_whole_is_not_written_again() -> None:
    assert done(shown={"percent": 100, "run": 1}).progress is None


def test_the_longest_legal_list_of_modules_runs() -> None:
    modules = [f"{number:02}{'m' * 62}" for number in range(32)]
    spec = BODY["spec"] | {"parameters": {"lora": {"targetModules": modules}}}
    actions = ask(Observed(body=BODY | {"spec": spec}))
    plan = json.loads(actions.creates[0]["data"]["plan.json"])
    assert plan["lora"]["targetModules"] == modules
    assert actions.status is not None
    shown = next(one for one in actions.status["parameters"] if one["name"] == "target_modules")
    assert (len(shown["value"]), shown["value"][-1]) == (2048, "…")


def test_a_job_follows_the_limits_that_may_still_change() -> None:
    limits = {"backoffLimit": 5, "activeDeadlineSeconds": 7200, "ttlSecondsAfterFinished": 600}
    (patch,) = ask(with_job({"active": 1}, **limits)).patches
    assert (patch.name, patch.uid) == ("swahili-assistant-1-train-1", JOB_UID)
    assert patch.spec == limits


def test_a_limit_that_is_taken_out_of_the_spec_is_taken_from_the_job() -> None:
    raw = build_raw_job({"spec": {"activeDeadlineSeconds": 60, "backoffLimit": 0}})
    (patch,) = ask(Observed(body=BODY, jobs=(ObservedJob.from_object(raw),))).patches
    assert patch.spec == {"activeDeadlineSeconds": None, "backoffLimit": 3}


def test_a_job_whose_limits_are_the_specs_is_not_patched() -> None:
    assert ask(with_job({"active": 1})).patches == ()


def test_a_finished_job_follows_the_time_it_stays_and_nothing_else() -> None:
    ended = with_job(
        ended_job("Failed", "DeadlineExceeded"), backoffLimit=9, ttlSecondsAfterFinished=300
    )
    first = ask(ended)
    assert [patch.spec for patch in first.patches] == [{"ttlSecondsAfterFinished": 300}]
    again = ask(replace(ended, body={**ended.body, "status": first.status}))
    assert [patch.spec for patch in again.patches] == [{"ttlSecondsAfterFinished": 300}]
    assert (again.creates, again.status) == ((), None)


def test_a_job_that_goes_is_not_patched() -> None:
    raw = build_raw_job({"metadata": {"deletionTimestamp": END}})
    body = BODY | {"spec": BODY["spec"] | {"backoffLimit": 1}}
    assert ask(Observed(body=body, jobs=(ObservedJob.from_object(raw),))).patches == ()


def test_a_limit_that_is_no_number_changes_nothing() -> None:
    assert ask(with_job({"active": 1}, backoffLimit=True, activeDeadlineSeconds=-1)).patches == ()
