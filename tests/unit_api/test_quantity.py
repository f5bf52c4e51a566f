"""Kubernetes quantities and durations as numbers."""

from decimal import Decimal

import pytest

from finetune_api.quantity import parse_duration, parse_quantity

QUANTITIES = {
    "80Gi": Decimal(80 * 1024**3),
    "1500M": Decimal(1_500_000_000),
    "1.5Ki": Decimal(1536),
    "7": Decimal(7),
    "100m": Decimal("0.1"),
}


@pytest.mark.parametrize(("text", "number"), QUANTITIES.items(), ids=QUANTITIES)
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, number: Decimal) -> None:
    assert parse_quantity(text) == number


@pytest.mark.parametrize("text", ["", "Gi", "1.2.3", "-1", "²", "1GiM", "1Gm"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match="is no quantity; write a number with a suffix such as 80Gi"
    ):
        parse_quantity(text)


DURATIONS = {"30m": 1800, "1h30m": 5400, "45s": 45}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items(), ids=DURATIONS)
def test_a_duration_is_read_in_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "1d", "-1m", "1.5h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration; write hours, minutes or seconds"):
        parse_duration(text)
