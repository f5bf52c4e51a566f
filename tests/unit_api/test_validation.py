"""Rules between fields, checked offline. What each refuses stands in `integration/invalid`."""

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.resource import LanguageFinetuneSpec, Parameters
from finetune_api.status import ProgressStatus
from finetune_api.validation import ALL_RULES, Violation, check_spec

SMALLEST: dict[str, Any] = {
    "model": {"uri": "hf://org/name"},
    "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/swahili/"}}],
    "output": {"uri": "s3://adapters/"},
}


def check(**changes: Any) -> list[Violation]:
    return check_spec(LanguageFinetuneSpec.model_validate(SMALLEST | changes))


def with_dataset(**dataset: Any) -> list[Violation]:
    return check(languages=[{"tag": "sw", "dataset": {"uri": "s3://corpora/sw/"} | dataset}])


def test_the_smallest_resource_breaks_no_rule() -> None:
    assert check() == []


@pytest.mark.parametrize(
    "uri",
    [
        "hf://meta-llama/Llama-3.1-8B-Instruct",
        "s3://models",
        "s3://models/a b/ü/",
        "pvc://models/llama/8b",
        "pvc://models",
    ],
)
def test_an_address_of_a_model_is_taken(uri: str) -> None:
    assert check(model={"uri": uri}) == []


@pytest.mark.parametrize(
    "uri",
    [
        "hf://llama",
        "hf://a/b/c",
        "s3:///models",
        "S3://models",
        " s3://models",
        "s3://key:secret@models/",
        "s3://models/../other",
        "pvc://Models/llama",
        "pvc://models/..",
        "file:///models",
        "models/llama",
        "hf://a/b\n",
    ],
)
def test_another_address_of_a_model_is_refused(uri: str) -> None:
    assert [one.path for one in check(model={"uri": uri})] == ["spec.model.uri"]


def test_a_violation_names_the_item_of_the_list() -> None:
    dataset = {"uri": "s3://corpora/sw/", "split": "test"}
    languages = [SMALLEST["languages"][0], {"tag": "uz", "dataset": dataset}]

    assert "spec.languages[1].dataset" in [one.path for one in check(languages=languages)]


@pytest.mark.parametrize(
    ("request_", "limit", "fits"),
    [
        ("500m", "1", True),
        ("1000m", "1", True),
        ("1.5", "1500m", True),
        ("16Gi", "16G", False),
        ("1Ti", "1024Gi", True),
        ("1M", "1Mi", True),
        ("2k", "1Ki", False),
    ],
)
def test_quantities_are_compared_as_kubernetes_does(request_: str, limit: str, fits: bool) -> None:
    sizes = {"requests": {"memory": request_}, "limits": {"memory": limit}}

    assert (check(resources=sizes) == []) is fits


def test_columns_of_any_kind_go_with_format_auto() -> None:
    assert with_dataset(columns={"messages": "turns", "text": "body"}) == []


def test_a_split_of_the_hub_is_taken() -> None:
    assert with_dataset(uri="hf://datasets/org/name", split="validation") == []


@pytest.mark.parametrize("rule", ALL_RULES, ids=[f"{r.path}: {r.message[:40]}" for r in ALL_RULES])
def test_a_message_says_what_to_do(rule: Any) -> None:
    assert any(mark in rule.message for mark in ("; ", ": ")), rule.message
    assert not rule.message.endswith(".")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("learningRate", "2e-4", "must be a number, and is '2e-4'; write it without quotes"),
        ("maxSteps", True, "must be a number, and is True; write it without quotes"),
        ("packing", "true", "must be a boolean, and is 'true'; write it without quotes"),
        ("packing", 1, "must be a boolean, and is 1; write it without quotes"),
    ],
)
def test_a_value_of_another_type_is_refused_as_the_api_server_does(
    field: str, value: object, message: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        Parameters.model_validate({field: value})

    assert [str(one["ctx"]["error"]) for one in refused.value.errors()] == [message]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3900, "1h05m")]
)
def test_the_time_left_is_shown_in_two_units_at_most(seconds: int, shown: str) -> None:
    assert ProgressStatus(eta_seconds=seconds).model_dump(by_alias=True)["etaText"] == shown


def test_progress_is_shown_in_percent() -> None:
    assert ProgressStatus(percent=42).model_dump(by_alias=True)["percentText"] == "42%"
