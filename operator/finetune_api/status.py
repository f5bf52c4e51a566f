"""What the user reads: `status` of a LanguageFinetune.

Bounds are generous and never tightened, there are no enums or patterns, and lists hold text instead
of floats: an old object must stay writable under a new schema. The operator builds these models in
one place (`finetune_operator.decide.status.build_status`) and writes them once.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, computed_field
from pydantic.alias_generators import to_camel

Text = Annotated[str, Field(max_length=1024)]
Sentence = Annotated[str, Field(max_length=4096)]
Word = Annotated[str, Field(max_length=128)]


class StatusPart(BaseModel):
    """Base of every part of status."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )


class Condition(StatusPart):
    """A Kubernetes condition."""

    type: Annotated[str, Field(max_length=316)]
    """Accepted, CorpusMeasured, Resolved, JobCreated, Running, Suspended, AdapterUploaded, Complete,
    Failed; Reconciling and Stalled are present only while True."""
    status: Annotated[str, Field(max_length=8)]
    """True, False or Unknown."""
    reason: Text
    """CamelCase word for machines."""
    message: Annotated[str, Field(max_length=32768)]
    """One sentence for people."""
    last_transition_time: Word
    """When status last changed."""
    observed_generation: int = 0
    """Generation of the spec this was said of."""


class TokenLengths(StatusPart):
    """Percentiles of example length in tokens."""

    p50: int
    """Half of the examples are no longer."""
    p95: int
    """95 % are no longer."""
    p99: int
    """99 % are no longer."""
    max: int
    """The longest."""


class CorpusStatus(StatusPart):
    """What was measured of one language's text."""

    tag: Word
    """BCP 47 tag."""
    examples: int
    """Examples trained on."""
    tokens: int
    """Tokens trained on, each epoch."""
    chars_per_token: Word | None = None
    """Characters of a token."""
    token_lengths: TokenLengths | None = None
    """Length of the examples."""
    truncated_percent: Word | None = None
    """Share of examples longer than the resolved length."""
    duplicates: int | None = None
    """Examples that repeat another."""
    script_share: Word | None = None
    """Share of letters in the tag's script."""
    supervised_tokens: int | None = None
    """Tokens that carry loss, each epoch."""
    unique_tokens: int | None = None
    """Tokens of the examples that repeat no other."""
    validation_examples: int | None = None
    """Examples held out."""
    bytes_per_token: Word | None = None
    """UTF-8 bytes of a token; comparable across scripts."""
    token_premium: Word | None = None
    """Tokens against English for the same content: as parallel text was counted for this tokenizer, else about
    so many by the bytes that the language takes."""
    code_mixing_index: Word | None = None
    """Mean mixing of languages by the scripts of words, 0 to 100."""
    type_token_ratio: Word | None = None
    """Moving average over 500 words, 0 to 1: how rich in forms the text is."""
    warnings: list[Sentence] = Field(default_factory=list, max_length=50)
    """What a person should look at."""


class PlanStatus(StatusPart):
    """The plan in short; the whole of it stands in the ConfigMap."""

    hash: Word
    """SHA-256 over what determines the adapter."""
    policy: Word
    """Guide or Evidence."""
    method: Word
    """LoRA, QLoRA or Full."""
    effective_batch: int
    """Sequences of one optimizer step."""
    total_steps: int | None = None
    """Optimizer steps, once the data is known."""
    estimated_seconds: int | None = None
    """Seconds of training, where this trainer's speed was measured on such a GPU."""
    trainable_parameters: int | None = None
    """Parameters of the adapter, once the model is known."""
    spec_hash: Word = ""
    """SHA-256 over the fields of the spec that the run was made from."""
    config_map: Word = ""
    """ConfigMap that holds the plan."""


class Trigger(StatusPart):
    """A trait that made a rule match."""

    trait: Word
    """Name of the trait."""
    value: Word
    """Its value."""
    source: Word
    """Declared, Guide, Measured, Evidence, Script, Default or Derived."""
    detail: Text = ""
    """The number behind it."""


class SupersededStatus(StatusPart):
    """A value that another view of the guide gives and that does not reach the adapter."""

    value: Word
    """The value as JSON."""
    rule: Word
    """Its rule."""
    guide_ids: list[Word] = Field(default_factory=list, max_length=32)
    """Items of the guide behind it."""
    message: Sentence
    """Why it does not count."""


class AlternativeStatus(StatusPart):
    """What the rules would say without the override, or what the other policy says."""

    policy: Word
    """Policy that gives it."""
    value: Word
    """The value as JSON."""
    rule: Word = ""
    """Its rule."""
    reference: Text = ""
    """What it rests on."""


class ParameterStatus(StatusPart):
    """One resolved parameter and why it has this value."""

    name: Word
    """The guide's name."""
    value: Annotated[str, Field(max_length=2048)]
    """The value as JSON."""
    rule: Word
    """Id of the rule, or OVERRIDE."""
    guide_ids: list[Word] = Field(default_factory=list, max_length=32)
    """Items of the guide behind it."""
    source: Word
    """Override, Rule, Measured or Default."""
    because: list[Trigger] = Field(default_factory=list, max_length=16)
    """Traits that made the rule match."""
    message: Sentence
    """Why, in one sentence."""
    reference: Text = ""
    """Literature or measurement behind a rule of policy Evidence."""
    superseded: list[SupersededStatus] = Field(default_factory=list, max_length=8)
    """Values of another view that do not reach the adapter."""
    alternative: AlternativeStatus | None = None
    """The guide's value beside an override, or the other policy's where it differs."""
    observation: Sentence = ""
    """What the run showed."""


class WarningStatus(StatusPart):
    """Something a person may want to act on."""

    id: Word
    """Stable id."""
    parameter: Word = ""
    """Parameter it is about."""
    severity: Word
    """info or warn."""
    message: Sentence
    """What, with numbers."""
    reference: Text = ""
    """What it rests on."""


class CheckpointStatus(StatusPart):
    """The newest checkpoint in S3."""

    step: int
    """Optimizer step."""
    uri: Text
    """Where it is."""
    time: Word
    """When the state was taken; a pod that is killed loses what came after it."""
    grace_seconds: int | None = None
    """Seconds that a pod needs from SIGTERM on to save, as measured; the run's next Job gets as many."""


class ProgressStatus(StatusPart):
    """Where a run is; pushed by the pod."""

    percent: int | None = None
    """0 to 100."""
    step: int | None = None
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps planned."""
    epoch: Word | None = None
    """Passes over the data."""
    loss: Word | None = None
    """Training loss, nats per supervised token."""
    eval_loss: Word | None = None
    """Loss on the held-out part."""
    tokens_per_second: Word | None = None
    """Non-padding tokens."""
    eta_seconds: int | None = None
    """Estimated seconds to the end."""
    stage: Word | None = None
    """Stage of the trainer: Start, Fetch, Validate, Tokenize, Model, Train, Evaluate, Export, Publish, Measure."""
    waiting_for: Text | None = None
    """Service that does not answer and that the pod asks again, such as a store; absent while none is waited for."""
    waiting_since: Word | None = None
    """When the pod began to wait for it."""
    updated_at: Word | None = None
    """When the pod last spoke."""
    checkpoint: CheckpointStatus | None = None
    """The newest checkpoint that the pod reported; status.checkpoint has it of all pods of the run."""

    @computed_field
    def percent_text(self) -> Word | None:
        """Percent for the printer column, such as 42%."""
        return None if self.percent is None else f"{self.percent}%"

    @computed_field
    def eta_text(self) -> Word | None:
        """Estimated time to the end for the printer column, such as 1h05m."""
        return None if self.eta_seconds is None else short_duration(self.eta_seconds)

    run: int | None = None
    """Run that this is of; an older run's progress says nothing about the newer one."""


def short_duration(seconds: int) -> str:
    """Return `seconds` in two units at most: 45s, 12m, 1h05m."""
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m" if minutes else f"{seconds}s"


class Attempt(StatusPart):
    """One Job or one pod of it that ended or runs."""

    job_name: Text
    """Name of the Job."""
    uid: Word
    """uid of the pod."""
    reason: Word = ""
    """Why it ended."""
    exit_code: int | None = None
    """Exit code of the trainer."""
    node: Text = ""
    """Node it ran on."""
    start: Word | None = None
    """When it started."""
    end: Word | None = None
    """When it ended."""


class ActiveTime(StatusPart):
    """How long the run was active, for its deadline; suspended or queued it is not."""

    seconds: int = 0
    """Of the stretches that have ended."""
    since: Word | None = None
    """When the stretch of now began."""


class GpuMemoryStatus(StatusPart):
    """Memory of one GPU."""

    least: Word | None = None
    """What one sequence of the full length needs, every layer recomputed."""
    predicted: Word | None = None
    """Before the run: the peak of the micro-batches that the trainer is expected to choose, or the least where GPU
    or text are unknown. After it: the peak that the trainer expected of its own micro-batches."""
    observed_peak: Word | None = None
    """Measured."""


class LanguageEvaluation(StatusPart):
    """Loss on one language's held-out part."""

    tag: Word
    """BCP 47 tag, or * for all."""
    base_loss: Word
    """Loss of the base model, nats per token."""
    adapter_loss: Word
    """Loss with the adapter."""
    base_bits_per_byte: Word
    """Bits per UTF-8 byte of the base model; comparable across tokenizers."""
    adapter_bits_per_byte: Word
    """Bits per UTF-8 byte with the adapter."""
    examples: int
    """Examples held out."""


class OutputStatus(StatusPart):
    """What was published."""

    uri: Text
    """Folder of the adapter."""
    manifest_sha256: Word
    """Checksum of manifest.json."""
    size_bytes: int
    """All files together."""
    files: int
    """Files the manifest lists."""


class MeasurementStatus(StatusPart):
    """What was measured, kept so that the same text is never measured twice."""

    hash: Word
    """SHA-256 over the texts, the tokenizer's model and whatever else decides what is counted."""
    profile: Annotated[str, Field(max_length=16384)]
    """The profile as JSON, as the Measure pod left it; `corpus` says the same in words."""


class LanguageFinetuneStatus(StatusPart):
    """State of the run. `phase` is a derived word for people; machines read conditions."""

    observed_generation: int = -1
    """Generation of the spec that was last looked at."""
    phase: Word = ""
    """Pending, Running, Complete, Failed …"""
    message: Sentence = ""
    """What happens now, in one sentence."""
    conditions: list[Condition] = Field(default_factory=list, max_length=20)
    """The truth for machines."""
    run: int = 1
    """Counts up when updatePolicy Recreate starts again."""
    corpus: list[CorpusStatus] = Field(default_factory=list, max_length=16)
    """What was measured of each language's text."""
    measurement: MeasurementStatus | None = None
    """The profile behind `corpus`, for the operator."""
    plan: PlanStatus | None = None
    """The plan in short."""
    parameters: list[ParameterStatus] = Field(default_factory=list, max_length=64)
    """Each resolved parameter and why it has this value."""
    warnings: list[WarningStatus] = Field(default_factory=list, max_length=64)
    """What a person may want to act on."""
    progress: ProgressStatus | None = None
    """Where the run is."""
    attempts: list[Attempt] = Field(default_factory=list, max_length=10)
    """The newest attempts, oldest first."""
    checkpoint: CheckpointStatus | None = None
    """The newest checkpoint of the run: where the next pod resumes."""
    active_time: ActiveTime | None = None
    """How long the run was active; kept where activeDeadlineSeconds is set."""
    gpu_memory: GpuMemoryStatus | None = None
    """Memory of one GPU, predicted and observed."""
    evaluation: list[LanguageEvaluation] = Field(default_factory=list, max_length=17)
    """Base against adapter on the held-out part."""
    output: OutputStatus | None = None
    """What was published."""
    languages_text: Text = ""
    """Tags in one word, for the printer column."""
    model_revision: Word = ""
    """The base model's resolved commit or content hash."""

    def to_object(self) -> dict[str, Any]:
        """Return the JSON object for the API server; empty parts, lists and texts are left out."""
        return _drop_empty(self.model_dump(by_alias=True, exclude_none=True, mode="json"))


def _drop_empty(entries: dict[str, Any]) -> dict[str, Any]:
    """Drop, at every depth, the entries that say nothing; in place, for it is done at every look."""
    for key, one in list(entries.items()):
        for part in one if isinstance(one, list) else (one,):
            if isinstance(part, dict):
                _drop_empty(part)
        if isinstance(one, dict | list | str) and not one:
            del entries[key]
    return entries
