"""What the comparison of Gemma's engines finds wrong, in words."""

from typing import Any

import pytest

from tests.bench.gpu.gemma import find_failures

FUSED = {
    "engine": "fused",
    "against_fp32": {"logits": 2e-2, "gradients": 3e-2},
    "curve dropout 0": [12.5, 12.4],
}


def build_found(**own: Any) -> dict[str, Any]:
    curve = [12.5, 12.4]
    return {
        "numerics": {
            "engines": {"fused": FUSED},
            "stock": {"logits": 2e-2, "gradients": 3e-2},
            "curves": {"fp32 dropout 0": curve, "stock dropout 0": curve},
            "attention": {},
        },
        "speed": [
            {"engine": "fused", "losses": [12.5]} | own,
            {"engine": "unsloth", "losses": [12.501]},
        ],
    }


def test_what_is_as_near_as_plain_peft_and_is_taken_passes() -> None:
    assert find_failures(build_found()) == []


@pytest.mark.parametrize(
    ("own", "reported"),
    [
        ({"engine": "unsloth"}, "the trainer took unsloth"),
        ({"losses": [12.6]}, "the engines' first losses are 0.0990 nats apart"),
        ({"losses": [float("nan")]}, "the engines' first losses are nan nats apart"),
    ],
)
def test_what_is_not_taken_or_learns_something_else_is_a_failure(
    own: dict[str, Any], reported: str
) -> None:
    assert find_failures(build_found(**own)) == [reported]
