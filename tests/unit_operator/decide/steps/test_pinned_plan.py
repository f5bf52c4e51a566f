"""A run that has begun keeps its plan, whatever its spec resolves to by now."""

import json
from typing import Any

import pytest

from finetune_api.plan import TrainingPlan
from finetune_operator.decide.decide import decide
from finetune_operator.decide.values.actions import Actions, Lookups
from finetune_operator.decide.values.observation import Observed
from tests.unit_operator.decide.story import CASES, CONTEXT, START, read_yaml

BODY = read_yaml(CASES / "new/resource.yaml")
OTHER = {"parameters": {"learningRate": 1e-4}}


def ask(resource: dict[str, Any], *, pinned_plan: str | None = None) -> Actions:
    return decide(Observed(body=resource, pinned_plan=pinned_plan), now=START, context=CONTEXT)


def plan_of(actions: Actions) -> TrainingPlan:
    config_map, _ = actions.creates
    return TrainingPlan.model_validate_json(config_map["data"]["plan.json"])


FRESH = plan_of(ask(BODY))
STEPS = FRESH.training.model_copy(update={"warmup_steps": FRESH.training.warmup_steps + 1})
OLD = FRESH.model_copy(update={"training": STEPS}).with_hash()
"""What an operator of other rules made of the same spec."""


def begun(**spec: Any) -> dict[str, Any]:
    """Return a resource whose run was begun with the old plan, and whose Job is gone."""
    status = json.loads(json.dumps(ask(BODY).status))
    status["plan"]["hash"] = OLD.hash
    return BODY | {"spec": BODY["spec"] | spec, "status": status}


def refused(resource: dict[str, Any]) -> dict[str, Any]:
    """Return the resource after the last try to make its Job again was refused."""
    conditions = [
        one | ({"status": "False"} if one["type"] == "JobCreated" else {})
        for one in resource["status"]["conditions"]
    ]
    return resource | {"status": resource["status"] | {"conditions": conditions}}


def test_a_run_whose_job_is_gone_asks_for_the_plan_that_it_began_with() -> None:
    assert ask(begun()).lookups == Lookups(pinned_plan=begun()["status"]["plan"]["configMap"])


def test_a_new_resource_asks_for_no_plan() -> None:
    assert ask(BODY).lookups is None


def test_the_plan_is_asked_for_once() -> None:
    assert ask(begun(), pinned_plan="").lookups is None


def test_the_next_job_obeys_the_plan_that_the_run_began_with() -> None:
    actions = ask(begun(), pinned_plan=OLD.to_json())
    _, job = actions.creates
    assert plan_of(actions) == OLD
    assert job["metadata"]["annotations"]["langops.dev/plan-hash"] == OLD.hash


def test_what_status_said_of_the_plan_is_kept_with_it() -> None:
    before = begun()
    status = ask(before, pinned_plan=OLD.to_json()).status
    assert status is not None
    assert status["plan"] == before["status"]["plan"]
    assert status["parameters"] == before["status"]["parameters"]


def test_a_restored_resource_goes_on_with_its_plan_under_its_new_uid() -> None:
    metadata = BODY["metadata"] | {"uid": "of-the-restored"}
    actions = ask(begun() | {"metadata": metadata}, pinned_plan=OLD.to_json())
    assert plan_of(actions).hash == OLD.hash
    assert plan_of(actions).identity.uid == "of-the-restored"


def test_a_create_that_was_refused_does_not_make_a_run_forget_its_plan() -> None:
    actions = ask(refused(begun()), pinned_plan=OLD.to_json())
    assert plan_of(actions).hash == OLD.hash


def test_a_spec_that_was_changed_after_a_refused_create_counts() -> None:
    actions = ask(refused(begun(**OTHER)), pinned_plan=OLD.to_json())
    assert actions.lookups is None
    assert plan_of(actions).training.learning_rate == 1e-4


def test_a_changed_spec_that_recreates_begins_the_next_run_though_no_job_is_there() -> None:
    actions = ask(begun(**OTHER, updatePolicy="Recreate"), pinned_plan=OLD.to_json())
    assert actions.status is not None
    assert (actions.status["run"], actions.creates) == (2, ())


@pytest.mark.parametrize(
    "found",
    ["", "{", FRESH.to_json(), OLD.model_copy(update={"training": FRESH.training}).to_json()],
    ids=["gone", "broken", "another", "changed by hand"],
)
def test_a_plan_that_cannot_be_kept_is_told(found: str) -> None:
    actions = ask(begun(), pinned_plan=found)
    assert plan_of(actions).hash == FRESH.hash
    assert actions.status is not None
    name = begun()["status"]["plan"]["configMap"]
    assert actions.status["warnings"][-1] == {
        "id": "plan-not-kept",
        "severity": "warn",
        "message": (
            f"The run began with plan {OLD.hash[:8]}, which ConfigMap {name} does not hold any more as "
            f"this version reads it; it begins again with plan {FRESH.hash[:8]}, without the "
            "checkpoints of the other."
        ),
    }


def test_a_suspended_run_asks_for_no_plan() -> None:
    assert ask(begun(suspend=True)).lookups is None


def test_a_suspended_run_keeps_what_is_said_of_its_plan() -> None:
    status = ask(begun(suspend=True)).status
    assert status is not None
    assert status["plan"] == begun()["status"]["plan"]


def test_a_resource_that_is_refused_now_remembers_the_plan_that_its_run_began_with() -> None:
    status = ask(begun(model={"uri": "s3://m/x", "trustRemoteCode": True})).status
    assert status is not None
    assert status["phase"] == "Stalled"
    assert status["plan"] == begun()["status"]["plan"]
