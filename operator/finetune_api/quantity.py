"""Kubernetes quantities and durations as numbers: `80Gi`, `500m`, `4`; `30m`, `1h30m`.

`resource` says what they look like; the rules between fields compare them here and the plan
takes its bytes from here.
"""

import re
from decimal import Decimal
from functools import lru_cache
from typing import Final

UNITS: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGT", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGT", start=1)},
}


@lru_cache(maxsize=256)
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


SECONDS: Final = {"h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> int:
    """Return the seconds of a duration such as 1h30m.

    Raises:
        ValueError: the text is no duration.
    """
    parts = re.findall(r"([0-9]+)([hms])", text)
    if not text or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; write hours, minutes or seconds such as 30m")
    return sum(int(number) * SECONDS[unit] for number, unit in parts)
