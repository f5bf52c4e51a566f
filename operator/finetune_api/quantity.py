"""Kubernetes quantities as numbers: `80Gi`, `500m`, `4`.

`resource` says what a quantity looks like; the rules between fields compare them here and the plan
takes its bytes from here.
"""

from decimal import Decimal
from typing import Final

UNITS: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGT", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGT", start=1)},
}


def parse_quantity(text: str) -> Decimal:
    """Return the number that a quantity stands for.

    Raises:
        ValueError: the text is no quantity.
    """
    number = text.rstrip("mkKMGTi")
    unit = text.removeprefix(number)
    if unit not in UNITS or not number.replace(".", "", 1).isdecimal():
        raise ValueError(f"{text!r} is no quantity; write a number with a suffix such as 80Gi")
    return Decimal(number) * UNITS[unit]
