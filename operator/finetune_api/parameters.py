"""Overrides in `spec.parameters`: every training and adapter parameter that a user may set.

Shapes and bounds only; unset means that the resolver's rules decide.
"""

from typing import Annotated

from pydantic import Field

from finetune_api.enums import Bias, EvalStrategy, LrScheduler, Optimizer, SaveStrategy
from finetune_api.spec_part import Part


class LoraParameters(Part):
    """Overrides of the adapter's shape."""

    r: int | None = Field(default=None, ge=1, le=1024)
    """Rank."""
    alpha: int | None = Field(default=None, ge=1, le=4096)
    """Scale; the update is multiplied by alpha/r."""
    dropout: float | None = Field(default=None, ge=0, le=0.9)
    """Dropout on the adapter's input."""
    target_modules: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        default=None, min_length=1, max_length=32
    )
    """Module names such as q_proj, or one of AllLinear, Attention, AttentionQV."""
    bias: Bias | None = None
    """Which biases are trained: None, All or LoraOnly."""
    use_rslora: bool | None = None
    """Scale by alpha/sqrt(r)."""
    use_dora: bool | None = None
    """Weight-decomposed LoRA; slower."""
    train_embeddings: bool | None = None
    """Train the embeddings and the head too; for continued pretraining."""


class Parameters(Part):
    """Overrides: each beats every rule and is announced as an override in status."""

    max_seq_length: int | None = Field(default=None, ge=64, le=1_048_576)
    """Longest example in tokens."""
    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Nominal micro-batch in sequences."""
    per_device_train_batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Sequences of one GPU in one micro-step."""
    gradient_accumulation_steps: int | None = Field(default=None, ge=1, le=4096)
    """Micro-steps of one optimizer step."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate, such as 0.0002 or 2.0e-4."""
    embedding_learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Learning rate of trained embeddings; for continued pretraining."""
    optimizer: Optimizer | None = None
    """AdamW, or AdamW8bit to save memory."""
    weight_decay: float | None = Field(default=None, ge=0, le=10)
    """Decay of the adapter towards the base model."""
    warmup_steps: int | None = Field(default=None, ge=0, le=10_000_000)
    """Steps of linear warm-up. Instead of warmupRatio."""
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps that warm up. Instead of warmupSteps."""
    lr_scheduler: LrScheduler | None = None
    """Shape of the learning rate after warm-up: Linear, Cosine or Constant."""
    num_train_epochs: float | None = Field(default=None, gt=0, le=1000)
    """Passes over the data. Instead of maxSteps."""
    max_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Optimizer steps. Instead of numTrainEpochs."""
    max_grad_norm: float | None = Field(default=None, ge=0, le=1000)
    """Gradients are clipped to this norm; 0 does not clip."""
    gradient_checkpointing: bool | None = None
    """Recompute activations where memory requires it."""
    flash_attention: bool | None = None
    """Ask for flash attention; what ran is reported."""
    eval_strategy: EvalStrategy | None = None
    """When the held-out part is evaluated: Never, Steps or Epoch."""
    eval_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Steps between evaluations; only with evalStrategy Steps."""
    save_strategy: SaveStrategy | None = None
    """Which checkpoints may become the published adapter: Never, Steps, Epoch or Best."""
    save_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Steps between saves; only with saveStrategy Steps."""
    early_stopping_patience: int | None = Field(default=None, ge=0, le=1000)
    """Evaluations without improvement before training stops; 0 never stops early."""
    seed: int | None = Field(default=None, ge=0, le=2_147_483_647)
    """Random seed of data order, dropout and adapter initialisation."""
    packing: bool | None = None
    """Fill blocks with several texts; for continued pretraining."""
    completion_only_loss: bool | None = None
    """Learn from answers only."""
    lora: LoraParameters | None = None
    """The adapter's shape."""
