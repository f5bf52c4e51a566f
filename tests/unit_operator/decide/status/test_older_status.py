"""A status that version 0.1.0 wrote on a real cluster is read whole, and a finished run is left alone."""

from dataclasses import replace
from typing import Any

from finetune_api.status import LanguageFinetuneStatus
from finetune_operator.decide.decide import decide
from finetune_operator.decide.values.observation import Observed
from tests.unit_operator.decide.story import CASES, CONTEXT, START, read_yaml, tell

OLDER: dict[str, Any] = read_yaml(CASES.parent / "older" / "status.yaml")["status"]


def test_every_field_is_read() -> None:
    status = LanguageFinetuneStatus.model_validate(OLDER)
    assert status.model_dump(mode="json", by_alias=True, exclude_none=True).keys() >= OLDER.keys()
    assert status.plan is not None
    assert status.plan.hash == OLDER["plan"]["hash"]
    assert [one.name for one in status.parameters] == [one["name"] for one in OLDER["parameters"]]


def test_a_run_that_is_finished_is_not_run_again() -> None:
    body = {**tell("new").observed.body, "status": OLDER}
    actions = decide(Observed(body=body), now=START, context=replace(CONTEXT, probes=True))
    assert actions.creates == ()
    assert actions.status is None or actions.status["phase"] == "Complete"
