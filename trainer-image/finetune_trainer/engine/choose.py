"""Which engine trains: facts observed, `runtime` asked, the choice built, checked and logged.

Between `model` and `train`. The model's own path is always there: an engine that cannot be built, or
whose gradients differ in the start-up check, is replaced by it, and the log says why.
"""

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from finetune_api.micro_batch import ActivationCost, MicroBatchLimits
from finetune_api.plan import TrainingParameters, TrainingPlan
from finetune_trainer.engine.attention import LARGEST_ERROR, choose_attention
from finetune_trainer.engine.gradient_check import Comparison, compare, exercise
from finetune_trainer.engine.tuning import (
    AttentionName,
    Choice,
    EngineName,
    Forced,
    MicroBatchChoice,
    Runtime,
    Widths,
    decide_cpu_micro_batch,
    decide_engine,
    decide_micro_batch,
    decide_unmodelled_micro_batch,
    estimate_fused_cost,
    estimate_unsloth_cost,
    explain_world_size,
    read_forced,
)
from finetune_trainer.errors import PlanInvalid
from finetune_trainer.fused.architecture import head_size_of
from finetune_trainer.fused.engine import FusedEngine
from finetune_trainer.fused.ops import find_kernel_faults
from finetune_trainer.fused.restrictions import find_doubts, find_obstacles
from finetune_trainer.model.loaded_model import Engine, LoadedModel, PlainEngine
from finetune_trainer.ranks.process_group import SINGLE, ProcessGroup
from finetune_trainer.steps.micro_batches import BatchLayout, TokenBudget, Tokens
from finetune_trainer.steps.sampler import DataOrder
from finetune_trainer.steps.schedule import build_schedule
from finetune_trainer.steps.sharding import count_largest_shard

REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What a model's forward raises that was not made for packed rows."""
SUMMED_BYTES = 4
"""Of a trained weight whose gradient is summed over ranks: the flat copy in fp32."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """The model with its engine, and how its steps are split."""

    loaded: LoadedModel
    budget: TokenBudget
    runtime: Runtime


def choose(
    plan: TrainingPlan,
    loaded: LoadedModel,
    rows: Sequence[Tokens],
    *,
    environ: Mapping[str, str],
    group: ProcessGroup = SINGLE,
) -> Chosen:
    """Return the model with the fastest engine that computes the same as its own path, the same on every rank.

    Raises:
        PlanInvalid: The environment forces what does not exist.
    """
    forced = _read_forced(environ)
    on_gpu = loaded.device.type == "cuda"
    obstacles = find_obstacles(
        loaded.network,
        capability=torch.cuda.get_device_capability() if on_gpu else None,
    )
    doubts = find_doubts(loaded.network) if on_gpu and forced.engine is None else ()
    choice = decide_engine(obstacles=(*obstacles, *doubts), on_gpu=on_gpu, forced=forced.engine)
    if choice.value == EngineName.FUSED:
        built = _build_fused(loaded, rows, attention=forced.attention)
        engine, choices = _take_fused(built, loaded=loaded, rows=rows, choice=choice, group=group)
    else:
        engine, choices = _build_plain(loaded, rows, choice, group=group)
    micro_batch = _decide_micro_batch(plan, loaded, rows, engine=engine, forced=forced, group=group)
    _keep_layers(loaded, engine, micro_batch)
    runtime = Runtime(
        engine=EngineName(engine.name),
        layout=engine.layout,
        micro_batch=micro_batch,
        choices=(*choices, *micro_batch.choices, *explain_world_size(group.world_size)),
    )
    for each in runtime.choices:
        log.info(each.reason, extra={"choice": each.name, "value": each.value})
    return Chosen(
        replace(loaded, engine=engine, attention=_name_attention(loaded, engine)),
        TokenBudget(micro_batch.tokens),
        runtime,
    )


def _read_forced(environ: Mapping[str, str]) -> Forced:
    try:
        return read_forced(environ)
    except ValueError as fault:
        raise PlanInvalid(
            f"The environment forces the runtime to something that does not exist ({fault}): unset"
            " FINETUNE_ENGINE, FINETUNE_ATTENTION, FINETUNE_TOKENS_PER_MICRO_BATCH and FINETUNE_LAYERS_KEPT.",
            reason="RuntimeForced",
        ) from fault


# --- Engines ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """What became of the fused engine on this rank."""

    engine: FusedEngine | None
    """None where it may not train."""
    finding: str
    """What was found of it."""
    choices: tuple[Choice, ...] = ()


def _take_fused(
    built: Built,
    *,
    loaded: LoadedModel,
    rows: Sequence[Tokens],
    choice: Choice,
    group: ProcessGroup,
) -> tuple[Engine, tuple[Choice, ...]]:
    """Return the fused engine where it may train on every rank, else what Unsloth has."""
    engine, finding = built.engine, built.finding
    if group.all_reduce_min(engine is not None) and engine is not None:
        checked = Choice("startUpCheck", "passed", f"The fused stack may train: {finding}.")
        return engine, (choice, *built.choices, checked)
    if engine is not None:
        engine.release()
        finding = "it cannot run on another GPU of the pod, whose log says why"
    reason = f"Unsloth's own path runs instead of the fused stack: {finding}."
    log.warning(reason)
    return _build_plain(loaded, rows, Choice("engine", EngineName.UNSLOTH, reason), group=group)


def _build_fused(
    loaded: LoadedModel, rows: Sequence[Tokens], *, attention: AttentionName | None
) -> Built:
    """Build the fused engine, choose its attention and check it."""
    try:
        engine = FusedEngine(loaded.network, device=loaded.device)
    except torch.OutOfMemoryError:
        # Weights that were stacked already are views, which the model's own path reads as well.
        return Built(None, "the GPU's memory does not hold the stacked weights beside the model's")
    choices: tuple[Choice, ...] = ()
    try:
        if loaded.device.type == "cuda":
            capability = torch.cuda.get_device_capability(loaded.device)
            choices = (choose_attention(engine, capability=capability, forced=attention),)
        finding, passes = _check_fused(loaded, engine, rows)
    except find_kernel_faults(loaded.device) as fault:
        # A kernel that does not compile here, or an operation that this torch lacks.
        finding = f"it fails on this machine ({_first_line(fault)})"
        passes = False
    if passes:
        return Built(engine, finding, choices)
    engine.release()
    return Built(None, finding)


def _check_fused(
    loaded: LoadedModel, engine: FusedEngine, rows: Sequence[Tokens]
) -> tuple[str, bool]:
    """Return what was found of the engine, and whether it may train."""
    error = engine.measure_attention_error(engine.attention)
    if not error <= LARGEST_ERROR:
        return f"its attention is {error:.2%} off torch's own in fp32", False
    # One text a micro-batch either way; on padded rows Unsloth first compiles for half a minute.
    on_gpu = loaded.device.type == "cuda"
    layouts = (BatchLayout.PACKED, BatchLayout.PADDED) if on_gpu else (BatchLayout.PADDED,)
    with _everything_kept(loaded.network):
        comparison = compare_with_model(loaded, engine, rows=rows, layouts=layouts)
    if comparison.passes:
        exercise(loaded, engine, rows=rows)
    return str(comparison), comparison.passes


def compare_with_model(
    loaded: LoadedModel, engine: Engine, *, rows: Sequence[Tokens], layouts: Sequence[BatchLayout]
) -> Comparison:
    """Compare with the model's own path, on rows of the first of `layouts` that its forward takes."""
    plain = PlainEngine(loaded.network, loaded.device, loaded.dtype)
    *others, last = layouts
    for layout in others:
        try:
            return compare(loaded, engine, reference=replace(plain, layout=layout), rows=rows)
        except REFUSALS as fault:
            # If it was the engine that failed, it fails again below.
            log.info("On %s rows the model's own path fails: %s", layout, _first_line(fault))
    return compare(loaded, engine, reference=replace(plain, layout=last), rows=rows)


def _build_plain(
    loaded: LoadedModel, rows: Sequence[Tokens], choice: Choice, *, group: ProcessGroup
) -> tuple[Engine, tuple[Choice, ...]]:
    """Return Unsloth's path, on packed rows where those give the same gradients."""
    padded = PlainEngine(loaded.network, loaded.device, loaded.dtype)
    if loaded.device.type == "cpu":
        reason = "Unsloth's CPU backend takes one sequence a row."
        return padded, (choice, Choice("layout", BatchLayout.PADDED, reason))
    packed = replace(padded, layout=BatchLayout.PACKED)
    try:
        comparison = compare(loaded, packed, reference=padded, rows=rows)
    except REFUSALS as fault:
        finding = (
            f"packed rows fail with this model ({str(fault).strip().partition(chr(10))[0][:200]})"
        )
        passes = False
    else:
        finding, passes = f"on packed rows {comparison}", comparison.passes
    if group.all_reduce_min(passes):
        reason = f"Sequences lie end to end without padding: {finding}."
        return packed, (choice, Choice("layout", BatchLayout.PACKED, reason))
    reason = f"Sequences are padded: {finding}."
    log.warning(reason)
    return padded, (choice, Choice("layout", BatchLayout.PADDED, reason))


def _first_line(fault: Exception) -> str:
    return str(fault).strip().partition("\n")[0][:200]


def _name_attention(loaded: LoadedModel, engine: Engine) -> str:
    if engine.layout is BatchLayout.PADDED:
        return loaded.attention
    if isinstance(engine, FusedEngine):
        return engine.attention.name
    return "flash, variable length" if loaded.device.type == "cuda" else "plain"


# --- Micro-batches -----------------------------------------------------------------------------------


def _decide_micro_batch(
    plan: TrainingPlan,
    loaded: LoadedModel,
    rows: Sequence[Tokens],
    *,
    engine: Engine,
    forced: Forced,
    group: ProcessGroup,
) -> MicroBatchChoice:
    training = plan.training
    micro_batch = training.per_device_train_batch_size * training.max_seq_length
    if loaded.device.type == "cpu":
        return decide_cpu_micro_batch(micro_batch_tokens=micro_batch, forced=forced)
    widths = _read_widths(loaded.network.get_base_model().config)
    if widths is None:
        return decide_unmodelled_micro_batch(micro_batch_tokens=micro_batch, forced=forced)
    lengths = [len(row.input_ids) for row in rows]
    gc.collect()
    torch.cuda.empty_cache()
    limits = MicroBatchLimits(
        free_bytes=group.all_reduce_min(torch.cuda.mem_get_info(loaded.device)[0]),
        longest=max(lengths),
        step_tokens=count_largest_step(plan.whole_training, lengths, world_size=group.world_size),
        layers=widths.layers,
        can_recompute=training.gradient_checkpointing,
        keeps_some_layers=isinstance(engine, FusedEngine),
    )
    return decide_micro_batch(
        _estimate_cost(plan, loaded, widths, engine=engine).add_fixed(
            SUMMED_BYTES * loaded.trainable_parameters if group.world_size > 1 else 0
        ),
        limits,
        used_bytes=torch.cuda.memory_allocated(loaded.device),
        forced=forced,
    )


def count_largest_step(
    training: TrainingParameters, lengths: Sequence[int], *, world_size: int = 1
) -> int:
    """Return the tokens that a rank computes in the largest step; the order is known beforehand."""
    order = DataOrder(
        rows=len(lengths), sequences_per_step=training.sequences_per_step, seed=training.seed
    )
    steps = build_schedule(training, rows=len(lengths), held_out=0).total_steps
    return max(
        count_largest_shard([lengths[row] for row in order.rows_of(step)], world_size=world_size)
        for step in range(steps)
    )


def _estimate_cost(
    plan: TrainingPlan, loaded: LoadedModel, widths: Widths, *, engine: Engine
) -> ActivationCost:
    if isinstance(engine, FusedEngine):
        layer = engine.stack.layers[0]
        return estimate_fused_cost(
            widths,
            ranks=sum(projection.ranks for projection in layer.projections),
            trainable=loaded.trainable_parameters,
            head_norms=layer.head_norm is not None,
            output_norms=layer.output_norm is not None,
        )
    inputs = {"o_proj": widths.query, "down_proj": widths.intermediate}
    dropped = sum(inputs.get(name, widths.hidden) for name in loaded.target_modules)
    return estimate_unsloth_cost(
        widths,
        trainable=loaded.trainable_parameters,
        dropped_columns=dropped if plan.lora.dropout else 0,
    )


def _read_widths(config: Any) -> Widths | None:
    """Return the sizes that the config names, None where it names others."""
    try:
        size = head_size_of(config)
        return Widths(
            layers=int(config.num_hidden_layers),
            hidden=int(config.hidden_size),
            intermediate=int(config.intermediate_size),
            query=size * int(config.num_attention_heads),
            key=size * int(getattr(config, "num_key_value_heads", config.num_attention_heads)),
            heads=int(config.num_attention_heads),
            vocabulary=int(config.vocab_size),
        )
    except (AttributeError, TypeError):
        return None


def _keep_layers(loaded: LoadedModel, engine: Engine, micro_batch: MicroBatchChoice) -> None:
    """Keep as many layers' activations as was decided."""
    if loaded.device.type == "cpu":
        return
    if isinstance(engine, FusedEngine):
        engine.stack.keep(micro_batch.layers_kept)
        return
    if micro_batch.layers_kept:
        for module in _able_to_recompute(loaded.network):
            module.gradient_checkpointing = False


def _able_to_recompute(network: Any) -> list[Any]:
    """Return the modules with the flag; where it is down on all of them, every activation is kept."""
    return [each for each in network.modules() if hasattr(each, "gradient_checkpointing")]


@contextmanager
def _everything_kept(network: Any) -> Iterator[None]:
    """Keep activations for a while: for short texts, making ready to recompute takes seconds."""
    modules = _able_to_recompute(network)
    flags = [module.gradient_checkpointing for module in modules]
    for module in modules:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.gradient_checkpointing = flag
