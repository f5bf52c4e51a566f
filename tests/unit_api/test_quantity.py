"""Kubernetes quantities as numbers."""

from decimal import Decimal

import pytest

from finetune_api.quantity import parse_quantity

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
