"""A grave warning is an event when it appears, and only then."""

import pytest

from finetune_api.status import WarningStatus
from finetune_operator.decide.status.events import ANNOUNCED, build_warning_events
from finetune_operator.decide.values.actions import Event
from finetune_resolver.parameters_page import build_page


def warning(advice_id: str) -> WarningStatus:
    return WarningStatus(id=advice_id, severity="warn", message=f"{advice_id} says so.")


def test_a_warning_that_appears_is_told_once() -> None:
    rate = warning("lr-below-lora-range")
    reported = build_warning_events([], after=[rate])
    assert reported == (
        Event("Warning", "LearningRateBelowLoraRange", "lr-below-lora-range says so."),
    )
    assert build_warning_events([rate], after=[rate]) == ()


def test_other_warnings_wait_in_status() -> None:
    assert build_warning_events([], after=[warning("alpha-ratio-high")]) == ()


@pytest.mark.parametrize("advice_id", ANNOUNCED)
def test_what_is_announced_is_a_warning_of_the_resolver(advice_id: str) -> None:
    assert f"\n| `{advice_id}` | " in build_page()
