"""`updatePolicy: Recreate`: when a changed spec is another run, and when it is not."""

import json
from typing import Any

import pytest

from finetune_api.resource import LanguageFinetune
from finetune_operator.decide.decide import decide
from finetune_operator.decide.plan.build_plan import hash_spec
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.observation import Observed, ObservedJob
from tests.unit_operator.decide.story import CASES, CONTEXT, START, build_raw_job, read_yaml

BODY = read_yaml(CASES / "new/resource.yaml")
OTHER: dict[str, Any] = {"parameters": {"learningRate": 1e-4}}
RECREATE: dict[str, Any] = {"updatePolicy": "Recreate"}


def body(*, status: Any = None, generation: int = 2, **spec: Any) -> dict[str, Any]:
    metadata = BODY["metadata"] | {"generation": generation}
    whole = BODY | {"metadata": metadata, "spec": BODY["spec"] | spec}
    return whole | ({"status": status} if status is not None else {})


def ask(resource: dict[str, Any], *jobs: ObservedJob) -> Actions:
    return decide(Observed(body=resource, jobs=jobs), now=START, context=CONTEXT)


def stored(resource: dict[str, Any]) -> Any:
    """Return the status after the run of this resource was begun."""
    return json.loads(json.dumps(ask(resource).status))


def spec_hash(**spec: Any) -> str:
    return hash_spec(LanguageFinetune.from_object(body(**spec)).spec)


FIRST = stored(body(generation=1))
JOB = ObservedJob.from_object(build_raw_job({}))


@pytest.mark.parametrize(
    "spec",
    [
        {"suspend": True},
        {"backoffLimit": 7},
        {"ttlSecondsAfterFinished": 600},
        {"activeDeadlineSeconds": 600},
        {"updatePolicy": "Recreate"},
        {"mode": "Run", "policy": "Guide"},
    ],
    ids="+".join,
)
def test_what_a_run_is_not_made_from_and_written_defaults_are_no_change(
    spec: dict[str, Any],
) -> None:
    assert spec_hash(**spec) == spec_hash()


def test_a_field_that_a_run_is_made_from_is_a_change() -> None:
    assert spec_hash(**OTHER) != spec_hash()


def test_without_the_policy_nothing_is_begun_anew() -> None:
    actions = ask(body(status=FIRST, **OTHER), JOB)
    assert (actions.deletes, (actions.status or {}).get("run")) == ((), 1)


def test_with_the_policy_the_job_goes_once_its_pods_have_stopped() -> None:
    actions = ask(body(status=FIRST, **OTHER, **RECREATE), JOB)
    (delete,) = actions.deletes
    assert (delete.name, delete.keeps_until_stopped) == ("swahili-assistant-1-train-1", True)
    assert actions.status is not None
    assert actions.status["run"] == 2
    assert "plan" not in actions.status


def test_other_rules_of_an_upgraded_operator_are_no_change_of_the_spec() -> None:
    status = json.loads(json.dumps(FIRST))
    status["plan"]["hash"] = "f" * 64
    assert ask(body(status=status, **RECREATE), JOB).deletes == ()


def test_a_status_of_before_this_policy_begins_nothing_anew() -> None:
    status = json.loads(json.dumps(FIRST))
    del status["plan"]["specHash"]
    assert ask(body(status=status, **OTHER, **RECREATE), JOB).deletes == ()


def test_a_spec_that_is_refused_begins_nothing_anew() -> None:
    refused: dict[str, Any] = {"parameters": {"numTrainEpochs": 1, "maxSteps": 5}}
    assert ask(body(status=FIRST, **refused, **RECREATE), JOB).deletes == ()


def test_a_spec_that_has_to_be_measured_begins_anew_and_measures_then() -> None:
    languages = [{"tag": "sw", "dataset": {"uri": "s3://corpora/swahili-new/"}}]
    changed = body(status=FIRST, languages=languages, **RECREATE)
    first = ask(changed, JOB)
    assert first.status is not None
    assert first.status["run"] == 2
    second = ask(changed | {"status": first.status})
    assert [one["metadata"]["name"] for one in second.creates if one["kind"] == "Job"] == [
        "swahili-assistant-2-measure-1"
    ]


def test_a_suspended_run_that_is_outdated_stays_suspended_as_the_next_one() -> None:
    changed = body(status=FIRST, suspend=True, **OTHER, **RECREATE)
    first = ask(changed, JOB)
    second = ask(changed | {"status": first.status})
    assert second.status is not None
    assert (second.status["phase"], second.status["run"], second.creates) == ("Suspended", 2, ())
