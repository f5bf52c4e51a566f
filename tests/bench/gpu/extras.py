"""What a suite measures beside its rows: memory, numerics, attention, reloading, resuming. Pure: which processes there are.

Each is a module that is started as `python -m MODULE DEVICE ANSWER.json MODEL… ARGUMENT…` and writes one
JSON object, which stands under its name in results.json. A `failure` in it fails the suite.
"""

from dataclasses import dataclass

from tests.bench.gpu.shapes import (
    GEMMA_1B,
    GEMMA_1B_6_LAYERS,
    GEMMA_TINY,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_8B_4_LAYERS,
    TINY,
    Shape,
)
from tests.bench.gpu.suite import DRY, OWN_1B, SMALL, EngineName, Row


@dataclass(frozen=True)
class Extra:
    """One process."""

    name: str
    module: str
    shapes: tuple[Shape, ...]
    """Models that it needs."""
    after: Row | None = None
    """The row whose outcome it reads."""


def _reload(shape: Shape, rows: tuple[Row, ...]) -> Extra:
    after = next(row for row in rows if row.engine is EngineName.OWN)
    return Extra("reload", "tests.bench.gpu.reload", (shape,), after=after)


MEMORY, NUMERICS = "tests.bench.gpu.memory", "tests.bench.gpu.numerics"
RESUME = "tests.bench.gpu.resume"
PROFILE = "tests.bench.gpu.step_profile"
GEMMA = "tests.bench.gpu.gemma"
ATTENTION = "tests.bench.gpu.attention_speed"
EXTRAS: dict[str, tuple[Extra, ...]] = {
    "small": (_reload(LLAMA_1B, SMALL),),
    "full": (
        Extra("numerics", NUMERICS, (LLAMA_8B_4_LAYERS,)),
        Extra("gemma", GEMMA, (GEMMA_1B_6_LAYERS, GEMMA_1B)),
        _reload(LLAMA_1B, (OWN_1B,)),
        Extra("attention", ATTENTION, ()),
        Extra("profile", PROFILE, (LLAMA_8B, LLAMA_1B)),
        Extra("resume", RESUME, (LLAMA_1B,)),
        # All 32 layers, where rounding adds up; a fault of one layer shows better in four.
        Extra("depth", NUMERICS, (LLAMA_8B,)),
        # Two, so that two GPUs share them.
        Extra("memory-1B", MEMORY, (LLAMA_1B,)),
        Extra("memory-8B", MEMORY, (LLAMA_8B,)),
    ),
    "dry": (
        _reload(TINY, DRY),
        Extra("numerics", NUMERICS, (TINY,)),
        Extra("resume", RESUME, (TINY,)),
        Extra("memory", MEMORY, (TINY,)),
        Extra("profile", PROFILE, (TINY,)),
        Extra("gemma", GEMMA, (GEMMA_TINY, GEMMA_TINY)),
        Extra("attention", ATTENTION, ()),
    ),
}
"""By suite."""
