"""What a plan will take: GPU memory and time, or why the time is not known.

Between `admission`, which resolves, and `answering`, which writes it into status. Everything here is a
forecast of the trainer's own choices; the run itself observes. Pure.
"""

from dataclasses import dataclass

from finetune_api import wire
from finetune_api.profile import Profile
from finetune_api.resource import LanguageFinetuneSpec
from finetune_api.status import GpuMemoryStatus
from finetune_operator.decide.status.build_status import format_gib
from finetune_resolver import Measurements, Resolution
from finetune_resolver.decisions.expected_peak import estimate_expected_micro_batch
from finetune_resolver.memory.model_shape import ModelShape
from finetune_resolver.memory.throughput import estimate_tokens_per_second, why_unknown


@dataclass(frozen=True)
class Forecast:
    """What is expected of a run before it begins."""

    memory: GpuMemoryStatus | None = None
    """Of one GPU; None where the model's shape is unknown, and on CPU."""
    seconds: int | None = None
    """Of training, where a speed was measured on such a GPU."""
    seconds_unknown: str = ""
    """Why not."""


def build_forecast(
    spec: LanguageFinetuneSpec,
    *,
    resolution: Resolution,
    measured: Measurements | None,
    profile: Profile | None,
    sequences: int,
) -> Forecast:
    """Return what a run of so many sequences will take."""
    known = measured or Measurements()
    why, speed = _speed(spec, shape=known.shape)
    seconds = _training_seconds(profile, sequences=sequences, speed=speed)
    return Forecast(
        memory=_memory(spec, resolution=resolution, measured=known),
        seconds=seconds,
        seconds_unknown=why if seconds is None else "",
    )


def _memory(
    spec: LanguageFinetuneSpec, *, resolution: Resolution, measured: Measurements
) -> GpuMemoryStatus | None:
    least = resolution.predicted_memory
    if least is None:
        return None
    micro_batch = estimate_expected_micro_batch(spec, resolution=resolution, measured=measured)
    predicted = least if micro_batch is None else micro_batch.peak
    return GpuMemoryStatus(
        least=format_gib(least.total_bytes), predicted=format_gib(predicted.total_bytes)
    )


def _speed(spec: LanguageFinetuneSpec, *, shape: ModelShape | None) -> tuple[str, float | None]:
    """Return the speed of the one GPU that the resource asks for by its product, or why it is unknown."""
    resources = spec.resources
    if not resources.gpus:
        return "no speed on CPU was measured", None
    if not resources.gpus == resources.nodes == 1:
        return "the speed of several GPUs is not predicted, only that of one", None
    if shape is None:
        return "the model's config.json names no sizes that are known", None
    selector = spec.scheduling.node_selector if spec.scheduling is not None else None
    product = (selector or {}).get(wire.LABEL_GPU_PRODUCT, "")
    return why_unknown(shape, product=product), estimate_tokens_per_second(shape, product=product)


def _training_seconds(
    profile: Profile | None, *, sequences: int, speed: float | None
) -> int | None:
    """Return how long so many sequences of average length take at a speed."""
    languages = profile.languages if profile is not None else ()
    examples = sum(one.examples for one in languages)
    if not examples or not sequences or speed is None:
        return None
    average = sum(one.tokens for one in languages) / examples
    return max(1, round(sequences * average / speed))
