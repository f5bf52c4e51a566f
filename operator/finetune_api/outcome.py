"""How a pod ended, in its termination message: the truth about the end, whatever progress said.

The trainer writes exactly one `Outcome`; the operator reads it from the pod's status. It fits the
kubelet's limit by construction: long texts are cut, never the JSON.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationError,
)

from finetune_api import wire
from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.profile import Profile
from finetune_api.strict import Strict

SCHEMA_VERSION: Literal[1] = 1
MESSAGE_LIMIT = 1024
"""Characters of a message at most; fewer where they need more bytes than the kubelet keeps."""
MESSAGE_LIMITS = (MESSAGE_LIMIT, 512, 256, 64)
"""Tried one after the other: a character may need four bytes, and six where JSON escapes it."""
PUBLISHED_AT_DEADLINE = "PublishedAtDeadline"
"""Reason of a pod that published what a run had reached at its deadline."""
NOTHING_FINISHED = "NothingFinished"
"""Reason of a pod that looked for finished work and found none."""
CUT = "…"
"""Ends a message that was cut."""


class Stage(StrEnum):
    """The stages of the trainer, in order; the last is the Measure pod's."""

    START = "Start"
    FETCH = "Fetch"
    VALIDATE = "Validate"
    TOKENIZE = "Tokenize"
    MODEL = "Model"
    TRAIN = "Train"
    EVALUATE = "Evaluate"
    EXPORT = "Export"
    PUBLISH = "Publish"
    MEASURE = "Measure"
    """Of the Measure pod alone, between Fetch and Publish."""


class Published(Strict):
    """What stands in S3 when a run is done."""

    uri: str = Field(max_length=1024)
    manifest_sha256: str = Field(min_length=64, max_length=64)
    size_bytes: int = Field(ge=0)
    files: int = Field(ge=0)
    already_there: bool = False
    """True when a finished manifest for the same plan hash was found and nothing was trained."""


class Evaluation(Strict):
    """Loss on the held-out part, before and after training. Loss is nats per supervised token."""

    base_loss: float
    adapter_loss: float
    base_bits_per_byte: float
    adapter_bits_per_byte: float
    examples: int = Field(ge=0)


class RunSummary(Strict):
    """Figures of a finished run, for status and observations."""

    steps: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    epochs: float = Field(ge=0)
    final_loss: float | None = None
    best_eval_loss: float | None = None
    best_step: int | None = None
    published_step: int | None = None
    """Step whose adapter is published: the best, or the last where the plan keeps that."""
    stopped_early: bool = False
    train_seconds: float = 0.0
    tokens: int = 0
    """Non-padding tokens trained on."""
    trainable_parameters: int = 0
    predicted_gpu_memory_bytes: int | None = None
    """The peak that the trainer expected, once it saw GPU, model and text; None on a CPU."""
    peak_gpu_memory_bytes: int | None = None
    attention: str = ""
    """The attention implementation that ran."""
    loss_at_start: float | None = None
    """Mean training loss of the first tenth of the steps, nats per supervised token."""
    loss_at_end: float | None = None
    """The same of the last tenth."""
    clipped_share: float | None = None
    """Share of the steps whose gradient was longer than the plan's max_grad_norm, 0 to 1."""
    world_size: int = 1
    """Processes that trained together, one a GPU."""
    sequences_per_step: float = 0.0
    """Sequences of an optimizer step, on average."""
    tokens_per_step: float = 0.0
    """Non-padding tokens of an optimizer step, on average."""
    micro_batches_per_step: float = Field(
        default=0.0,
        validation_alias=AliasChoices(
            "microBatchesPerStep", "micro_batches_per_step", "launchesPerStep"
        ),
    )
    """Calls of the model that made an optimizer step, on average."""
    micro_batch_tokens: int = Field(
        default=0,
        validation_alias=AliasChoices("microBatchTokens", "micro_batch_tokens", "launchTokens"),
    )
    """Tokens of one micro-batch at most, padding included."""
    micro_batch_halvings: int = Field(
        default=0,
        validation_alias=AliasChoices(
            "microBatchHalvings", "micro_batch_halvings", "launchHalvings"
        ),
    )
    """How often GPU memory ran out and micro-batches were halved."""
    evaluations: int | None = None
    """Evaluations of the held-out part during training."""
    eval_steps: int | None = None
    """Optimizer steps between two of them."""
    checkpoints: int = 0
    """Checkpoints that came whole to S3, of all attempts."""
    checkpoint_wait_seconds: float = 0.0
    """What the training waited for checkpoints, of `train_seconds`; their upload is beside it."""
    deadline_seconds: int | None = None
    """The deadline that ended the training before its last step; None where it came to its own end."""
    resumed_from_step: int | None = None
    """Step of the checkpoint from which the last attempt went on; None where it began at the start."""


def describe_cut(summary: RunSummary, *, uri: str) -> str:
    """Return what became of a run that its deadline ended, in one sentence."""
    return (
        f"The deadline of {summary.deadline_seconds} seconds ended the run after step {summary.steps:,} of "
        f"{summary.total_steps:,}; its adapter of step {summary.published_step or summary.steps:,} is "
        f"published at {uri}."
    )


class CorpusLanguage(Strict):
    """What was seen of one language's text while it was tokenised."""

    tag: str = Field(max_length=35)
    examples: int
    validation_examples: int
    tokens: int
    supervised_tokens: int
    characters: int
    p50: int
    p95: int
    p99: int
    longest: int
    truncated: int
    """Examples longer than the resolved length."""
    skipped: int = 0
    """Examples with nothing to learn from, reported and not trained."""


IS_PACKED = "is_packed"
"""Serialization context that has the profile compressed."""


def _dump_profile(profile: Profile, info: SerializationInfo) -> dict[str, object]:
    is_packed = isinstance(info.context, dict) and info.context.get(IS_PACKED) is True
    return {**(profile.to_packed() if is_packed else profile.to_rows())}


RowedProfile = Annotated[
    Profile, BeforeValidator(Profile.from_rows), PlainSerializer(_dump_profile)
]
"""A profile whose languages are rows of values without names."""


class Outcome(Strict):
    """The end of one pod."""

    schema_version: Literal[1] = SCHEMA_VERSION
    exit_code: int
    reason: str = Field(max_length=64)
    """CamelCase, stable: `Done`, `AlreadyDone`, `DataInvalid`, `BucketNotFound` …"""
    stage: Stage
    message: str = Field(max_length=MESSAGE_LIMIT)
    """One sentence: object, what is wrong, what is allowed, what to do."""
    plan_hash: str = Field(default="", max_length=64)
    model_revision: str = Field(default="", max_length=128)
    published: Published | None = None
    evaluation: Evaluation | None = None
    summary: RunSummary | None = None
    checkpoint: SavedCheckpoint | None = None
    """The newest checkpoint of this plan, whichever pod wrote it; None where there is none."""
    grace_seconds_needed: int | None = Field(default=None, ge=0)
    """What a step, a checkpoint and its upload took, as measured: for the next pod's grace period."""
    corpus: tuple[CorpusLanguage, ...] = Field(default=(), max_length=16)
    profile: RowedProfile | None = None
    """What the Measure pod found; None of every other pod."""

    def to_termination_message(self) -> str:
        """Return compact JSON of at most 4096 bytes.

        Where that is not enough the profile is packed and the per-language corpus yields, then the
        message is cut, then the profile's detail yields, then what each length leaves of the text.
        """
        text = _to_json(self)
        shorter = self
        for limit in MESSAGE_LIMITS:
            if _fits(text):
                return text
            changes = {"corpus": (), "message": cut_message(self.message, limit=limit)}
            shorter = self.model_copy(update=changes)
            text = _to_json(shorter, is_packed=True)
        if self.profile is None:
            return text
        least = self.profile.without_detail()
        for profile in (least, least.without_lengths()):
            if _fits(text):
                return text
            text = _to_json(shorter.model_copy(update={"profile": profile}), is_packed=True)
        return text

    @classmethod
    def from_termination_message(cls, text: str) -> "Outcome | None":
        """Return the outcome, or None where the message is absent, cut or not ours."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None


def cut_message(message: str, *, limit: int = MESSAGE_LIMIT) -> str:
    """Return the message, or its beginning where it has more than `limit` characters."""
    return message if len(message) <= limit else message[: limit - len(CUT)] + CUT


def _fits(text: str) -> bool:
    return len(text.encode()) <= wire.TERMINATION_LIMIT_BYTES


def _to_json(outcome: Outcome, *, is_packed: bool = False) -> str:
    return outcome.model_dump_json(by_alias=True, exclude_none=True, context={IS_PACKED: is_packed})
