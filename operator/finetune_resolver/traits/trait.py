"""The shapes of a trait: its name, its classes, where it comes from, and the axes that rules read.

Values only; `traits` finds them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from finetune_api.resource import (
    Corpus,
    Documents,
    GpuMemoryClass,
    ModelDepth,
    Morphology,
    ResourceLevel,
    SyntaxDistance,
    TokenDensity,
)


class MorphologyKind(StrEnum):
    """What makes a language complex: its words, or its writing."""

    INFLECTIONAL = "Inflectional"
    ORTHOGRAPHIC = "Orthographic"


class TraitSource(StrEnum):
    """Where a trait's value comes from."""

    DECLARED = "Declared"
    GUIDE = "Guide"
    MEASURED = "Measured"
    EVIDENCE = "Evidence"
    SCRIPT = "Script"
    DEFAULT = "Default"
    DERIVED = "Derived"


TraitValue = (
    TokenDensity
    | Morphology
    | MorphologyKind
    | Corpus
    | ResourceLevel
    | Documents
    | SyntaxDistance
    | ModelDepth
    | GpuMemoryClass
    | bool
    | int
)
"""A class, a switch, or a number that was counted."""


# A named tuple, as `Decision` is: a resolution makes thirty of each, and a frozen dataclass takes three
# times as long to make (measured: 3.9 against 1.2 us for a decision).
class Trait(NamedTuple):
    """One trait, its value and where it comes from."""

    name: str
    """As the resource spells it, such as tokenDensity."""
    value: TraitValue
    source: TraitSource
    detail: str = ""
    """The number or row behind it."""


@dataclass(frozen=True, slots=True)
class Axes:
    """The ten axes that the rules read; None is unset."""

    token_density: TokenDensity | None = None
    morphology: Morphology | None = None
    morphology_kind: MorphologyKind | None = None
    corpus: Corpus | None = None
    resource_level: ResourceLevel | None = None
    documents: Documents | None = None
    syntax_distance: SyntaxDistance | None = None
    code_switching: bool | None = None
    model_depth: ModelDepth | None = None
    gpu_memory: GpuMemoryClass | None = None


AXIS_NAMES: dict[str, str] = {
    "token_density": "tokenDensity",
    "morphology": "morphology",
    "morphology_kind": "morphologyKind",
    "corpus": "corpus",
    "resource_level": "resourceLevel",
    "documents": "documents",
    "syntax_distance": "syntaxDistance",
    "code_switching": "codeSwitching",
    "model_depth": "modelDepth",
    "gpu_memory": "gpuMemory",
}
"""Field of `Axes` to the name of its trait, in the order they are shown."""

TraitSet = dict[str, Trait]
"""Traits by the field of `Axes`; an unset one is absent."""


def build_axes(traits: TraitSet) -> Axes:
    """Return the bare values that the rules read."""
    # NB: the keys are the fields, each with its own type; no type checker can see that.
    return Axes(**{axis: trait.value for axis, trait in traits.items()})  # type: ignore[arg-type]
