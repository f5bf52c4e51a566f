"""How much GPU memory a run needs: a model's shape and a method in, bytes by component out.

`estimate_memory` sums the components and `estimate_largest_batch` turns a GPU's memory into
sequences; `memory_fit` decides by both. It estimates the least that a run needs: every layer
recomputed. A trainer with memory to spare keeps layers' activations instead (`layers_kept`).

Pure: no GPU, no model library, no file. How far to trust it, and against what it was checked, stands
in docs/memory.md. GB is 10^9 bytes everywhere.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from finetune_api.micro_batch import LOGIT_ROWS, ActivationCost, compute_padded_ranks
from finetune_api.resource import Method, Optimizer
from finetune_resolver.memory.model_shape import ALL_LINEAR, ModelShape

GB = 1_000_000_000
MEMORY_CEILING = 0.90
"""Share of a GPU's memory that is planned with: the model errs by up to 16 % and allocators
fragment (held-out rows of docs/memory.md)."""
ERROR_BAND = 0.16
"""Relative error of published rows that took no part in the fit: 21 of them, -10.8 to +16.2 %."""

BYTES_16_BIT = 2
NF4_BYTES = 0.516
"""A weight in 4-bit NF4 with double quantisation: 4.127 bits (QLoRA paper: 0.127 bits of constants)."""
FP32_BYTES = 4
"""PEFT's preparation for k-bit training casts what is not quantised to fp32; Unsloth does not."""
TRAINED_BYTES = {Optimizer.ADAMW_8BIT: 10, Optimizer.ADAMW: 16}
"""A trained weight in fp32, its gradient in fp32 and two moments, of one byte or of four each."""
RECOMPUTE_FACTOR = 6.1
"""Bytes a token for each element of q, k, v, gate and up of the one layer that is live, its
gradients and its offload buffers included; fitted on Unsloth's maximal contexts for Llama-3.1-8B."""
LAYER_INPUT_BYTES = 2
"""Plain checkpointing keeps each layer's input on the GPU in 16 bits; Unsloth offloads it."""
LOGIT_BYTES = 15.6
"""A logit with its fp32 copies and gradients, where the loss is not fused; fitted on the HF rows
of the same table. Unsloth's fused loss never holds all logits."""
FIXED_BYTES = 0.8 * GB
"""CUDA context, kernels' workspaces and fragments; fitted on the same table."""
KEPT_HIDDEN, KEPT_QUERY = 2.5, 2.0
"""Widths that a kept layer saves beside k, v, gate and up: residual and norms, queries and attention
output. Fitted on one H100 to 98,880 (8B) and 52,534 bytes (1B) a token and layer."""
DROPOUT_BYTES = 1.06
"""Bytes a token that LoRA dropout adds to a kept layer for each input element of an adapted module:
1.03 at 8B and 1.09 at 1B, measured on one H100."""

FUSED_INPUTS: tuple[tuple[str, ...], ...] = (
    ("q_proj", "k_proj", "v_proj", "qkv_proj"),
    ("o_proj",),
    ("gate_proj", "up_proj", "gate_up_proj"),
    ("down_proj",),
)
"""Modules of a layer that the fused stack multiplies at once, because they read the same input; a model
has those of one spelling."""

MLP_MODULES = frozenset({"gate_proj", "up_proj", "gate_up_proj", "down_proj"})
"""Modules whose adapters Unsloth computes in one fused MLP."""


class TrainingEngine(StrEnum):
    """What runs the model."""

    UNSLOTH = "Unsloth"
    """Layer inputs offloaded to host memory, fused loss."""
    HUGGING_FACE = "HuggingFace"
    """Plain PEFT with flash attention: layer inputs on the GPU, all logits held."""
    FUSED = "Fused"
    """The trainer's own decoder stack: layer inputs on the GPU, loss in chunks, dropout for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Predicted peak of one GPU, by what holds it."""

    weights_bytes: int
    adapter_bytes: int
    """Trained weights, their gradients and the optimizer; for Full without the weights themselves."""
    activations_bytes: int
    logits_bytes: int
    fixed_bytes: int

    @property
    def base_bytes(self) -> int:
        """What does not grow with the tokens of a micro-batch."""
        return self.weights_bytes + self.adapter_bytes + self.fixed_bytes

    @property
    def total_bytes(self) -> int:
        """The predicted peak."""
        return self.base_bytes + self.activations_bytes + self.logits_bytes

    @property
    def low_bytes(self) -> int:
        """Lower end of the band."""
        return round(self.total_bytes * (1 - ERROR_BAND))

    @property
    def high_bytes(self) -> int:
        """Upper end of the band."""
        return round(self.total_bytes * (1 + ERROR_BAND))

    def fits(self, gpu_memory_bytes: int) -> bool:
        """Whether the peak stays below the share of a GPU that is planned with."""
        return self.total_bytes <= MEMORY_CEILING * gpu_memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is trained, and how: everything that decides memory but the tokens of a micro-batch."""

    method: Method
    rank: int = 16
    modules: Collection[str] = (ALL_LINEAR,)
    """Names of adapted modules, or the single word AllLinear."""
    engine: TrainingEngine = TrainingEngine.UNSLOTH
    optimizer: Optimizer = Optimizer.ADAMW_8BIT
    dropout: bool = False
    """Whether LoRA's dropout is above 0."""
    offloads_inputs: bool = True
    """Whether Unsloth keeps the inputs of recomputed layers in host memory, as it does by default."""

    @property
    def keeps_inputs(self) -> bool:
        """Whether recomputed layers leave their inputs on the GPU."""
        return self.engine is not TrainingEngine.UNSLOTH or not self.offloads_inputs


def estimate_memory(
    shape: ModelShape, workload: Workload, *, tokens_per_micro_batch: int, layers_kept: int = 0
) -> MemoryEstimate:
    """Return the predicted peak of one GPU.

    Args:
        shape: the base model.
        workload: what is trained, and how; Auto counts as LoRA, which it tries first.
        tokens_per_micro_batch: sequences times their length in one forward and backward pass.
        layers_kept: layers whose activations are kept instead of recomputed.

    Raises:
        UnsupportedModelError: the workload names a module that the model lacks.
    """
    cost = estimate_activation_cost(shape, workload, keeps_layers=layers_kept > 0)
    logits = _logit_bytes(shape, workload)
    activations = cost.bytes_per_token(layers_kept=layers_kept, layers=shape.layers) - logits
    trained = _trained_parameters(shape, workload)
    held = _held_logits(shape, workload)
    return MemoryEstimate(
        weights_bytes=round(_weights_bytes(shape, workload)),
        adapter_bytes=TRAINED_BYTES[workload.optimizer] * trained,
        activations_bytes=round(activations * tokens_per_micro_batch),
        logits_bytes=round(logits * tokens_per_micro_batch) + held,
        fixed_bytes=round(FIXED_BYTES),
    )


def estimate_largest_batch(
    shape: ModelShape, workload: Workload, *, max_seq_length: int, gpu_memory_bytes: int
) -> int:
    """Return how many sequences of the full length fit in one micro-batch; 0 where not even one does.

    Args:
        shape: the sizes of the base model.
        workload: what is trained, and how.
        max_seq_length: tokens at which a sequence is cut.
        gpu_memory_bytes: memory of one GPU, in bytes.
    """
    return estimate_largest_micro_batch(shape, workload, gpu_memory_bytes) // max_seq_length


def estimate_offloaded_bytes(
    shape: ModelShape, *, tokens_per_micro_batch: int, layers_kept: int = 0
) -> int:
    """Return the host memory that Unsloth's offloaded layer inputs take beside the GPU's.

    Args:
        shape: the sizes of the base model.
        tokens_per_micro_batch: sequences times their length in one forward and backward pass.
        layers_kept: layers whose activations are kept instead of recomputed.
    """
    recomputed = shape.layers - layers_kept
    return LAYER_INPUT_BYTES * recomputed * shape.hidden_size * tokens_per_micro_batch


def _weights_bytes(shape: ModelShape, workload: Workload) -> float:
    if workload.engine is TrainingEngine.FUSED:
        return _fused_weights_bytes(shape, workload)
    if workload.method is not Method.QLORA:
        return BYTES_16_BIT * shape.parameters()
    rest = FP32_BYTES if workload.engine is TrainingEngine.HUGGING_FACE else BYTES_16_BIT
    return NF4_BYTES * shape.linear_parameters() + rest * shape.other_parameters()


def _trained_parameters(shape: ModelShape, workload: Workload) -> int:
    if workload.method is Method.FULL:
        return shape.parameters()
    return shape.lora_parameters(rank=workload.rank, modules=workload.modules)


def estimate_activation_cost(
    shape: ModelShape, workload: Workload, *, keeps_layers: bool = True
) -> ActivationCost:
    """Return what one token costs in activations and logits, in bytes; nothing of it is fixed.

    Args:
        shape: the base model.
        workload: what is trained, and how.
        keeps_layers: False where every layer is recomputed; `kept` is not computed then, which makes
            a resolution a tenth faster.

    Raises:
        UnsupportedModelError: the workload names a module that the model lacks.
    """
    if workload.engine is TrainingEngine.FUSED:
        return _estimate_fused_cost(shape, workload)
    projected = shape.query_size + 2 * shape.key_size + 2 * shape.intermediate_size
    return ActivationCost(
        kept=_kept_layer_bytes(shape, workload) if keeps_layers else 0.0,
        recomputed=LAYER_INPUT_BYTES * shape.hidden_size if workload.keeps_inputs else 0.0,
        # The fitted factor holds the live layer already.
        live=0.0,
        always=RECOMPUTE_FACTOR * projected + _logit_bytes(shape, workload),
        fixed=0.0,
    )


def _logit_bytes(shape: ModelShape, workload: Workload) -> float:
    """Return what the logits of one token take where the loss is not fused."""
    if workload.engine is not TrainingEngine.HUGGING_FACE:
        return 0.0
    return LOGIT_BYTES * shape.vocabulary_size


def _kept_layer_bytes(shape: ModelShape, workload: Workload) -> float:
    """Return what one token leaves behind in a layer that is not recomputed."""
    elements = KEPT_HIDDEN * shape.hidden_size + KEPT_QUERY * shape.query_size
    elements += 2 * shape.key_size + 2 * shape.intermediate_size
    if workload.method is Method.FULL:
        return BYTES_16_BIT * elements
    linears = shape.linears()
    adapted = shape.adapted(workload.modules)
    # Unsloth's fused blocks free what plain autograd keeps, and they run only where the block's own
    # modules are adapted: one MLP product and one attention output more, measured on one H100.
    if not adapted & MLP_MODULES:
        elements += shape.intermediate_size
    if "o_proj" not in adapted:
        elements += shape.query_size
    dropped = sum(linears[name][0] for name in adapted) if workload.dropout else 0
    return BYTES_16_BIT * elements + DROPOUT_BYTES * dropped


# --- The fused stack, counted tensor by tensor (the trainer's runtime counts the same) -----------


def _estimate_fused_cost(shape: ModelShape, workload: Workload) -> ActivationCost:
    """Return what one token costs in the fused stack: layers, and the head at its widest."""
    kept = _fused_layer_bytes(shape, workload)
    # Four streams and a gradient of the MLP in 16 bits, attention's sum in fp32.
    head = BYTES_16_BIT * (4 * shape.hidden_size + shape.intermediate_size)
    return ActivationCost(
        kept=kept,
        recomputed=LAYER_INPUT_BYTES * shape.hidden_size,
        live=kept,
        always=head + FP32_BYTES * shape.query_size,
        fixed=0.0,
    )


def _fused_layer_bytes(shape: ModelShape, workload: Workload) -> float:
    """Return what one token leaves behind in a layer of the fused stack."""
    columns = 2 * (
        shape.hidden_size + shape.query_size + shape.key_size + shape.intermediate_size
    ) + sum(_padded_ranks(shape, workload))
    scales = 2 + shape.attention_heads
    if shape.head_norms:
        scales += 2 * shape.attention_heads
    if shape.output_norms:
        columns += 2 * shape.hidden_size
        scales += 2
    return BYTES_16_BIT * columns + FP32_BYTES * scales


def _padded_ranks(shape: ModelShape, workload: Workload) -> tuple[int, ...]:
    """Return the adapter's columns beside each input of a layer."""
    adapted = shape.adapted(workload.modules)
    counts = (sum(name in adapted for name in names) for names in FUSED_INPUTS)
    return tuple(compute_padded_ranks(workload.rank, adapters=count) for count in counts)


def _fused_weights_bytes(shape: ModelShape, workload: Workload) -> float:
    """Return the model's weights with the adapter's columns beside them."""
    beside = _stacked_elements(shape, workload)
    if workload.method is not Method.QLORA:
        return BYTES_16_BIT * (shape.parameters() + shape.layers * beside)
    # All layers share one matrix of each kind, which each fills from its 4-bit weights in its turn.
    one_layer = shape.linear_parameters() // shape.layers + beside
    rest = BYTES_16_BIT * (shape.other_parameters() + one_layer)
    return NF4_BYTES * shape.linear_parameters() + rest


def _stacked_elements(shape: ModelShape, workload: Workload) -> int:
    """Return the elements with which a layer's stacked matrices exceed the model's own."""
    linears = shape.linears()
    extra = 0
    for names, ranks in zip(FUSED_INPUTS, _padded_ranks(shape, workload), strict=True):
        members = [linears[name] for name in names if name in linears]
        inputs, outputs = members[0][0], sum(fan_out for _, fan_out in members)
        extra += ranks * (inputs + outputs + ranks)
    return extra


def _held_logits(shape: ModelShape, workload: Workload) -> int:
    """Return the bytes of logits that are held whatever the tokens of a micro-batch."""
    if workload.engine is not TrainingEngine.FUSED:
        return 0
    return BYTES_16_BIT * LOGIT_ROWS * shape.vocabulary_size


def estimate_largest_micro_batch(
    shape: ModelShape, workload: Workload, gpu_memory_bytes: int
) -> int:
    """Return the tokens of the largest micro-batch that fits; 0 where the weights alone do not.

    Args:
        shape: the sizes of the base model.
        workload: what is trained, and how.
        gpu_memory_bytes: memory of one GPU, in bytes.
    """
    trained = TRAINED_BYTES[workload.optimizer] * _trained_parameters(shape, workload)
    base = round(_weights_bytes(shape, workload)) + trained + round(FIXED_BYTES)
    base += _held_logits(shape, workload)
    cost = estimate_activation_cost(shape, workload, keeps_layers=False)
    spare = MEMORY_CEILING * gpu_memory_bytes - base
    return cost.count_tokens(spare, layers_kept=0, layers=shape.layers)
