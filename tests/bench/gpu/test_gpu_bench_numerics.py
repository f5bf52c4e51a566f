"""When an engine passes the numerics: no further off than stock PEFT's own rounding and masks are."""

from typing import Any

from tests.bench.gpu.numerics import judge

STOCK = {"logits": 2.4e-2, "gradients": 3.4e-2}
CURVES = {
    "fp32 dropout 0": [12.0, 10.0],
    "stock dropout 0": [12.0, 10.01],
    "stock dropout 0.1": [12.0, 10.2],
    "stock again": [12.0, 10.3],
}


def see(**changes: Any) -> dict[str, Any]:
    fused = {
        "against_fp32": {"logits": 2.1e-2, "gradients": 2.9e-2},
        "curve dropout 0": [12.0, 10.015],
        "curve dropout 0.1": [12.0, 10.35],
    }
    return {"engines": {"fused": fused | changes}, "attention": {"32/8 x 128": {"out": 1.9e-3}}}


def test_an_engine_as_near_to_fp32_as_stock_passes() -> None:
    assert judge(see(), stock=STOCK, curves=CURVES) == []


def test_an_engine_further_off_fp32_than_stock_does_not() -> None:
    worse = {"logits": 2.4e-2, "gradients": 4.0e-2}
    assert judge(see(against_fp32=worse), stock=STOCK, curves=CURVES) == [
        "fused: gradients 4.00e-02 off fp32, stock PEFT 3.40e-02"
    ]


def test_a_curve_that_leaves_fp32_further_than_stocks_does_not() -> None:
    assert judge(see(**{"curve dropout 0": [12.0, 10.03]}), stock=STOCK, curves=CURVES) == [
        "fused: curve with dropout 0 0.0300 nats off, allowed 0.0200"
    ]


def test_a_curve_with_dropout_may_differ_as_two_seeds_of_stock_do_twice_and_as_stock_rounds() -> (
    None
):
    assert judge(see(**{"curve dropout 0.1": [12.0, 10.405]}), stock=STOCK, curves=CURVES) == []
    found = see(**{"curve dropout 0.1": [12.0, 10.42]})
    assert judge(found, stock=STOCK, curves=CURVES) == [
        "fused: curve with dropout 0.1 0.2200 nats off, allowed 0.2100"
    ]


def test_a_number_that_is_none_never_passes() -> None:
    found = see(against_fp32={"logits": float("nan"), "gradients": 2.9e-2})
    assert judge(found, stock=STOCK, curves=CURVES) == [
        "fused: logits nan off fp32, stock PEFT 2.40e-02"
    ]


def test_attention_has_a_bar_of_its_own() -> None:
    found = see() | {"attention": {"32/8 x 64": {"out": 1e-3, "dq": 5e-3}}}
    assert judge(found, stock=STOCK, curves=CURVES) == ["attention 32/8 x 64: 5.00e-03 off fp32"]
