"""Language traits in; every training parameter with its reason out.

In flow order: `traits/` (catalogue, declaration and measurement, combined by precedence) → `needs`
(what only a measurement can tell) → `policies/` (ordered rules over the traits) → `decisions/` (rules
and overrides into decisions, then the plan's training parameters) → `warnings/` (what a person may want
to act on). `memory/` estimates GPU memory and time. `resolve` is the pipeline.

Pure: the only I/O is reading the package's own `languages.yaml` once. Nothing here knows a cluster.
"""

from finetune_resolver.decisions.build import build_training, decision_statuses, warning_statuses
from finetune_resolver.errors import (
    InsufficientGpuMemoryError,
    ResolverError,
    UnknownLanguageError,
    UnsupportedModelError,
    UnsupportedSpecError,
)
from finetune_resolver.needs import Need, measurement_needs
from finetune_resolver.resolution import (
    Advice,
    Alternative,
    Decision,
    MethodChoice,
    Resolution,
    Superseded,
)
from finetune_resolver.resolve import resolve
from finetune_resolver.traits.from_profile import build_measurements, corpus_statuses
from finetune_resolver.traits.measurement import LanguageMeasurement, Measurements
from finetune_resolver.traits.trait import Axes, Trait

__all__ = [
    "Advice",
    "Alternative",
    "Axes",
    "Decision",
    "InsufficientGpuMemoryError",
    "LanguageMeasurement",
    "Measurements",
    "MethodChoice",
    "Need",
    "Resolution",
    "ResolverError",
    "Superseded",
    "Trait",
    "UnknownLanguageError",
    "UnsupportedModelError",
    "UnsupportedSpecError",
    "build_measurements",
    "build_training",
    "corpus_statuses",
    "decision_statuses",
    "measurement_needs",
    "resolve",
    "warning_statuses",
]
