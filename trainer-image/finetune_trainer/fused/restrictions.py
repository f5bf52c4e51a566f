"""What the fused stack can run, stated once: everything else is named here in words and runs elsewhere.

Asked by the trainer before it builds the stack. Pure: nothing is changed, and no weight is read.
"""

from collections.abc import Iterator
from typing import Any

import torch

from finetune_api.micro_batch import FUSED_MODEL_TYPES
from finetune_trainer.fused.architecture import (
    FAMILIES,
    GATES,
    LAYER_TYPES,
    head_size_of,
    layer_types_of,
    rotations_of,
)

MODEL_TYPES = frozenset(FAMILIES)
"""Decoders of rotated heads and a gated MLP a layer. Gemma 2 caps the scores of its attention, which no
flash kernel inside torch does, and Gemma 3 with pictures holds its decoder inside another model; both run
elsewhere, and so do mixtures of experts."""
UNMEASURED = MODEL_TYPES - FUSED_MODEL_TYPES
"""Those of them that no GPU has run to its end yet: right on CPUs, their kernels interpreted and compiled, but
a kernel that breaks a GPU's memory ends the run. On a GPU they run only if FINETUNE_ENGINE asks for it."""
ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotations whose frequencies do not depend on the length of the text."""
PROJECTIONS = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
)
LARGEST_RANK = 128
"""Three slots of it still fit the shared memory of the dropout kernels."""
LARGEST_HEAD = 256
"""Of torch's flash kernels."""
FIRST_CAPABILITY = (8, 0)
"""Of a GPU that computes bf16 and runs flash attention."""


def find_obstacles(network: Any, *, capability: tuple[int, int] | None) -> tuple[str, ...]:
    """Return why the stack cannot run this model with its adapter; empty where it can.

    Args:
        network: A PEFT model.
        capability: Of the GPU; None on a CPU, where the reference in torch runs.
    """
    base = network.get_base_model()
    return (
        *_obstacles_of_device(base, capability),
        *_obstacles_of_model(base),
        *_obstacles_of_adapter(network),
    )


def find_doubts(network: Any) -> tuple[str, ...]:
    """Return why the stack does not take a model by itself on a GPU that it could run."""
    kind = network.get_base_model().config.model_type
    if kind not in UNMEASURED:
        return ()
    doubt = (
        f"the fused stack was not yet measured on a GPU with a model of type {kind}"
        " (FINETUNE_ENGINE=fused takes it all the same)"
    )
    return (doubt,)


def _obstacles_of_device(base: Any, capability: tuple[int, int] | None) -> Iterator[str]:
    dtype = base.get_input_embeddings().weight.dtype
    if capability is None:
        return
    if capability < FIRST_CAPABILITY:
        yield f"the GPU has compute capability {capability[0]}.{capability[1]}, below 8.0"
    if dtype != torch.bfloat16:
        # Of what is not quantized; 4-bit weights compute in the same type.
        yield f"the model computes in {dtype}, not in bfloat16"


def _obstacles_of_model(base: Any) -> Iterator[str]:
    config = base.config
    if config.model_type not in MODEL_TYPES:
        yield f"the model is of type {config.model_type}"
        return
    activation = getattr(config, FAMILIES[config.model_type].activation)
    if activation not in GATES:
        yield f"its MLP gates with {activation}"
    if getattr(config, "attention_dropout", 0.0):
        yield f"it drops {config.attention_dropout:g} of its attention"
    if getattr(config, "use_bidirectional_attention", False):
        yield "its attention looks ahead"
    for capped in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, capped, None) is not None:
            yield f"it has {capped} {getattr(config, capped):g}"
    for unknown in sorted({each for each in layer_types_of(config) if each} - LAYER_TYPES):
        yield f"it has layers of type {unknown}"
    for parameters in rotations_of(config).values():
        rotation = parameters.get("rope_type", "default")
        if rotation not in ROTATIONS:
            yield f"its positions are rotated by {rotation}"
    size = head_size_of(config)
    if size > LARGEST_HEAD or size % 16:
        yield f"its attention heads have {size} columns"
    yield from _obstacles_of_layers(base)


def _obstacles_of_layers(base: Any) -> Iterator[str]:
    for layer in base.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        modules: list[Any] = [
            getattr(owner, name, None)
            for owner, names in (
                (attention, ("q_proj", "k_proj", "v_proj", "o_proj")),
                (mlp, ("gate_proj", "up_proj", "down_proj")),
            )
            for name in names
        ]
        linears: list[Any] = [getattr(module, "base_layer", module) for module in modules]
        kinds = sorted({type(linear).__name__ for linear in linears})
        if kinds not in (["Linear"], ["Linear4bit"]):
            yield f"its projections are {', '.join(kinds)}, not all plain or all in 4 bits"
            return
        if any(linear.bias is not None for linear in linears[3:]):
            yield "its output or MLP projections have biases"
            return
        if len({linear.bias is None for linear in linears[:3]}) > 1:
            yield "some of its query, key and value projections have biases and others none"
            return


def _obstacles_of_adapter(network: Any) -> Iterator[str]:
    configs = network.peft_config
    if list(configs) != ["default"]:
        yield f"there are {len(configs)} adapters"
        return
    config = configs["default"]
    if config.use_dora:
        yield "the adapter is a DoRA"
    if config.bias != "none":
        yield f"the adapter trains biases ({config.bias})"
    if config.modules_to_save:
        yield f"the adapter trains whole modules ({', '.join(config.modules_to_save)})"
    if config.r > LARGEST_RANK:
        yield f"the adapter has rank {config.r}, above {LARGEST_RANK}"
    if config.rank_pattern or config.alpha_pattern:
        yield "the adapter's modules have ranks or alphas of their own"
    others = sorted(set(config.target_modules) - PROJECTIONS)
    if others:
        yield f"the adapter targets {', '.join(others)}"
