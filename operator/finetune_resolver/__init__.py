"""What is known of a language, in; every training parameter with its reason, out.

In flow order: `catalogue` (what is known of a language before its text is seen) → `traits` (declared,
guide, measured, evidence, default: which one counts) → `needs` (what of them only a measurement can
tell) → `from_profile` (what a measurement says) → `rules_guide` and `rules_default` (ordered
rules over the traits) → `resolve` (rules and overrides into decisions) → `advice` (what a person may
want to act on) → `build` (the plan's parts and status lists).

Pure: nothing here does I/O but reading the package's own `languages.yaml` once. It knows neither a
cluster nor a GPU.
"""

from finetune_resolver.build import build_training, decision_statuses, warning_statuses
from finetune_resolver.errors import (
    InsufficientGpuMemoryError,
    ResolverError,
    UnknownLanguageError,
    UnsupportedModelError,
    UnsupportedSpecError,
)
from finetune_resolver.from_profile import corpus_statuses, measurements_of
from finetune_resolver.measurement import LanguageMeasurement, Measurements
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
from finetune_resolver.trait import Axes, Trait

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
    "build_training",
    "corpus_statuses",
    "decision_statuses",
    "measurement_needs",
    "measurements_of",
    "resolve",
    "warning_statuses",
]
