"""Questions that the guide's rules ask of the traits: yes or no, nothing decided. Pure."""

from finetune_api.resource import (
    Corpus,
    Documents,
    GpuMemoryClass,
    Morphology,
    ResourceLevel,
    TokenDensity,
)
from finetune_resolver.traits.trait import Axes, MorphologyKind

MORPHOLOGY = ("morphology", "morphology_kind")
"""Fields of `Axes` that `is_complex_inflectional` looks at."""


def is_dense(axes: Axes) -> bool:
    """Whether a token holds about one character."""
    return axes.token_density is TokenDensity.DENSE


def is_light(axes: Axes) -> bool:
    """Whether a token holds several characters."""
    return axes.token_density is TokenDensity.LIGHT


def is_small(axes: Axes) -> bool:
    """Whether this job has little text."""
    return axes.corpus is Corpus.SMALL


def is_medium(axes: Axes) -> bool:
    """Whether this job has a middling amount of text."""
    return axes.corpus is Corpus.MEDIUM


def is_large(axes: Axes) -> bool:
    """Whether this job has much text."""
    return axes.corpus is Corpus.LARGE


def is_low_resource(axes: Axes) -> bool:
    """Whether the language has little text in the world."""
    return axes.resource_level is ResourceLevel.LOW


def is_complex_inflectional(axes: Axes) -> bool:
    """Whether words, and not only the writing, are complex (C6, C8)."""
    orthographic = axes.morphology_kind is MorphologyKind.ORTHOGRAPHIC
    return axes.morphology is Morphology.COMPLEX and not orthographic


def is_constrained(axes: Axes) -> bool:
    """Whether the nominal batch does not fit the GPU."""
    return axes.gpu_memory is GpuMemoryClass.CONSTRAINED


def is_code_switched(axes: Axes) -> bool:
    """Whether sentences mix two languages."""
    return axes.code_switching is True


def is_light_and_short(axes: Axes) -> bool:
    """Whether light text takes the lower end of its range."""
    # C10: English has 4096 and Spanish 8192 with the same traits; the documents decide, and where
    # they are unknown a large corpus counts as long.
    short = axes.documents is Documents.SHORT
    return is_light(axes) and (short or (axes.documents is None and not is_large(axes)))
