"""The training plan: what the trainer obeys, resolved numbers only.

The operator builds one plan a run and stores it in an immutable ConfigMap; the trainer reads it and
decides nothing that changes the mathematics. `plan_hash` covers what determines the adapter and
nothing else, so that a restored or re-applied resource finds its finished work.
"""

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from finetune_api.resource import (
    DEFAULT_ROW_CHARACTERS,
    BadRowPolicy,
    Bias,
    DatasetFormat,
    EvalStrategy,
    LrScheduler,
    Method,
    Optimizer,
    OutputFormat,
    Policy,
    SaveStrategy,
    TrainingStage,
)
from finetune_api.strict import Strict

SCHEMA_VERSION: Literal[1] = 1


class RunIdentity(Strict):
    """Whose run this is."""

    namespace: str
    name: str
    """Full name of the resource, up to 253 characters."""
    uid: str
    run: int = Field(ge=1)


class PlannedModel(Strict):
    """The base model."""

    uri: str
    revision: str | None = None
    """hf:// only; the trainer records the commit it resolves to."""
    trust_remote_code: bool = False
    credentials: str | None = None
    """Credentials use (`wire.credentials_prefix`), or None for the pod's own identity."""


class PlannedColumns(Strict):
    """Columns to read, where they are not the usual ones."""

    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None


class PlannedValidation(Strict):
    """The held-out part: a dataset of its own, or a fraction chosen by hash."""

    uri: str | None = None
    fraction: float = Field(default=0.05, gt=0, lt=1)
    """Without meaning where `uri` is set."""
    max_examples: int = Field(default=2000, ge=1)
    """Rows evaluated at most, of either."""


class PlannedDataset(Strict):
    """The text of one language."""

    tag: str
    uri: str
    sha256: str | None = None
    format: DatasetFormat = DatasetFormat.AUTO
    columns: PlannedColumns = PlannedColumns()
    split: str = "train"
    validation: PlannedValidation = PlannedValidation()
    weight: int = Field(default=1, ge=1)
    credentials: str | None = None
    """Credentials use, or None for the pod's own identity."""
    on_bad_row: BadRowPolicy = BadRowPolicy.FAIL
    max_row_characters: int = Field(default=DEFAULT_ROW_CHARACTERS, ge=1)

    @model_serializer(mode="wrap")
    def _leave_out_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out fields that came after the first release and have their default.

        A plan of the same resource is then the same bytes and has the same hash as before they existed.
        """
        written: dict[str, Any] = handler(self)
        for name in LATER_FIELDS:
            field = type(self).model_fields[name]
            if getattr(self, name) == field.default:
                written.pop(name, None)
                written.pop(field.alias or name, None)
        return written


LATER_FIELDS = ("on_bad_row", "max_row_characters")


class TrainingParameters(Strict):
    """Every number of the optimization."""

    max_seq_length: int = Field(ge=2)
    """Longest example, in tokens."""
    per_device_train_batch_size: int = Field(ge=1)
    """Sequences of one device in one micro-step."""
    gradient_accumulation_steps: int = Field(ge=1)
    """Micro-steps of one optimizer step."""
    learning_rate: float = Field(gt=0)
    optimizer: Optimizer
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up; 0 where `warmup_ratio` counts."""
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps; 0 where `warmup_steps` counts."""
    lr_scheduler: LrScheduler
    num_train_epochs: float = Field(gt=0)
    """Passes over the data; without meaning where `max_steps` is positive."""
    max_steps: int = Field(default=-1, ge=-1)
    """Optimizer steps, or -1 for epochs."""
    max_grad_norm: float = Field(ge=0)
    gradient_checkpointing: bool
    """True: layers may be recomputed where memory requires it."""
    flash_attention: bool
    """A requirement to verify and report, never a reason to fail."""
    eval_strategy: EvalStrategy
    eval_steps: int | None = Field(default=None, ge=1)
    """None: clamp(total steps / 20, 100, 500), the guide's range (G-HT-14), once steps are known."""
    save_strategy: SaveStrategy
    save_steps: int | None = Field(default=None, ge=1)
    """None: as `eval_steps`."""
    early_stopping_patience: int = Field(ge=0)
    """Evaluations without improvement before the end; 0 never stops early."""
    seed: int = Field(ge=0)
    packing: bool = False
    completion_only_loss: bool = True

    @property
    def sequences_per_step(self) -> int:
        """Sequences of one optimizer step on one device."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def over(self, devices: int) -> Self:
        """Return the same training as one device does it: the micro-steps of all, one after the other.

        Its steps hold the same sequences, and loss and gradient are the same sums.
        """
        steps = self.gradient_accumulation_steps * devices
        return self.model_copy(update={"gradient_accumulation_steps": steps})


class LoraPlan(Strict):
    """The adapter's shape, in PEFT's terms."""

    r: int = Field(ge=1)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    target_modules: tuple[str, ...]
    """Module names, or the single word AllLinear."""
    bias: Bias
    use_rslora: bool = False
    use_dora: bool = False
    task_type: Literal["CAUSAL_LM"] = "CAUSAL_LM"


class PlannedResources(Strict):
    """What the pod has. In the hash only their number of devices counts, as part of the batch."""

    gpus: int = Field(ge=0)
    """GPUs of each node; 0 trains on CPU."""
    nodes: int = Field(default=1, ge=1)
    gpu_memory_bytes: int | None = None
    """Of each GPU."""

    @property
    def devices(self) -> int:
        """Devices that each do the plan's micro-steps of one optimizer step: all GPUs, or the CPU."""
        return max(1, self.gpus) * self.nodes


class PlannedOutput(Strict):
    """Where the adapter goes. Not part of the hash."""

    uri: str
    """`output.uri` of the resource without a slash at its end."""
    formats: tuple[OutputFormat, ...] = (OutputFormat.ADAPTER,)
    credentials: str | None = None
    """Credentials use, or None for the pod's own identity."""


DEFAULT_CHECKPOINT_SECONDS = 600
"""By Young's rule, sqrt(2 * cost * time between failures): a second of waiting, a node lost every two days."""


class PlannedCheckpoints(Strict):
    """When training state goes to S3, whichever comes first. Not part of the hash."""

    every_seconds: int | None = Field(default=DEFAULT_CHECKPOINT_SECONDS, ge=1)
    """Seconds between checkpoints, or None for steps alone."""
    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints, or None for time alone."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""


class PlannedDecision(Strict):
    """One resolved parameter and why, for the adapter card. Not part of the hash."""

    name: str
    value: JsonValue
    rule: str
    guide_ids: tuple[str, ...] = ()
    source: str
    message: str


class TrainingPlan(Strict):
    """Everything the trainer needs to know, and nothing it may decide."""

    schema_version: Literal[1] = SCHEMA_VERSION
    identity: RunIdentity
    model: PlannedModel
    datasets: tuple[PlannedDataset, ...]
    stage: TrainingStage
    method: Method
    """Resolved: never Auto."""
    policy: Policy
    training: TrainingParameters
    lora: LoraPlan
    resources: PlannedResources
    output: PlannedOutput
    checkpoints: PlannedCheckpoints = PlannedCheckpoints()
    decisions: tuple[PlannedDecision, ...] = ()
    hash: str = ""
    """`plan_hash` of this plan; the trainer refuses a plan whose hash is another."""

    @property
    def whole_training(self) -> TrainingParameters:
        """The training with the sequences of all devices in a step: its mathematics, on any hardware."""
        return self.training.over(self.resources.devices)

    def with_hash(self) -> Self:
        """Return the plan with `hash` filled in."""
        return self.model_copy(update={"hash": plan_hash(self)})

    def to_json(self) -> str:
        """Return canonical JSON: the same plan is always the same bytes."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def plan_hash(plan: TrainingPlan) -> str:
    """Return the SHA-256, in hex, over what determines the adapter and nothing else.

    Names, uid, run, resources, scheduling, output, checkpoints, credentials and the wording of reasons do not
    count: a resource that is deleted and applied again finds its finished work. Two devices with two
    micro-steps each make the same adapter as one with four, so only the whole step counts.
    """
    determines = {
        "schema": SCHEMA_VERSION,
        "model": plan.model.model_dump(mode="json", exclude={"credentials"}),
        "datasets": [
            dataset.model_dump(mode="json", exclude={"credentials"}) for dataset in plan.datasets
        ],
        "stage": plan.stage.value,
        "method": plan.method.value,
        "training": plan.whole_training.model_dump(mode="json"),
        "lora": plan.lora.model_dump(mode="json"),
    }
    return hashlib.sha256(canonical_json(determines).encode()).hexdigest()
