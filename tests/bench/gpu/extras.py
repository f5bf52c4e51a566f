"""What a suite measures beside its rows: memory, numerics, reloading. Pure: which processes there are.

Each is a module that is started as `python -m MODULE DEVICE ANSWER.json MODEL… ARGUMENT…` and writes one JSON
object, which stands under its name in results.json.
"""

from dataclasses import dataclass

from tests.bench.gpu.shapes import Shape


@dataclass(frozen=True)
class Extra:
    """One process."""

    name: str
    module: str
    shapes: tuple[Shape, ...]
    """Models that it needs."""
    arguments: tuple[str, ...] = ()


EXTRAS: dict[str, tuple[Extra, ...]] = {"small": (), "full": (), "dry": ()}
"""By suite."""
