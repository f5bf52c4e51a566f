"""What a family of decoders does otherwise than Llama, in one place: read from a config, no weights.

Built by `engine`; `layer`, `head` and `restrictions` read it, and no other module asks for a model's type. Pure.
"""

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

import torch

from finetune_trainer.fused.attention import AttentionWindow
from finetune_trainer.fused.ops import GELU_TANH, SILU, Gate, HeadShape

SLIDING = "sliding_attention"
LAYER_TYPES = frozenset({"full_attention", SLIDING})
GATES = MappingProxyType({"silu": SILU, "gelu_pytorch_tanh": GELU_TANH})
"""By transformers' name of the activation."""


@dataclass(frozen=True)
class NormNames:
    """The norms of a layer by what they are applied to, as the layer's module calls them."""

    attention_input: str
    mlp_input: str
    attention_output: str | None = None
    """None where the output goes into the residual stream as it is."""
    mlp_output: str | None = None


class Slides(Enum):
    """Which layers see a window of the text alone."""

    NEVER = "never"
    ALWAYS = "always"
    BY_LAYER = "by layer"
    """Those that the config's `layer_types` calls sliding."""


@dataclass(frozen=True)
class Family:
    """How all models of one type are built (transformers 5.17's modeling files)."""

    norms: NormNames = NormNames("input_layernorm", "post_attention_layernorm")
    norm_offset: float = 0.0
    """Added to every norm's weight, which then is about zero."""
    slides: Slides = Slides.NEVER
    activation: str = "hidden_act"
    """The config's name of the gate's activation."""
    scales_embeddings: bool = False
    """Whether embeddings are multiplied by the root of the hidden size."""
    attention_scalar: str = ""
    """The config's name of what scores are divided by the root of; the size of a head where empty."""


FAMILIES = MappingProxyType(
    {
        "llama": Family(),
        "mistral": Family(slides=Slides.ALWAYS),
        "qwen2": Family(slides=Slides.BY_LAYER),
        "qwen3": Family(slides=Slides.BY_LAYER),
        "gemma3_text": Family(
            norms=NormNames(
                attention_input="input_layernorm",
                attention_output="post_attention_layernorm",
                mlp_input="pre_feedforward_layernorm",
                mlp_output="post_feedforward_layernorm",
            ),
            norm_offset=1.0,
            slides=Slides.BY_LAYER,
            activation="hidden_activation",
            scales_embeddings=True,
            attention_scalar="query_pre_attn_scalar",
        ),
    }
)
"""By `model_type`. Qwen2's biases and the head norms of Qwen3 and Gemma 3 are seen on the modules."""


@dataclass(frozen=True)
class LayerKind:
    """What one layer does otherwise than the next."""

    attention_window: AttentionWindow
    rotation: str | None
    """Its entry in the config's `rope_parameters`; None where all layers share one rotation."""


@dataclass(frozen=True)
class Architecture:
    """One model."""

    family: Family
    heads: HeadShape
    gate: Gate
    eps: float
    """Of all norms."""
    embedding_scale: float
    layers: tuple[LayerKind, ...]

    def norm_weight(self, module: Any) -> torch.Tensor:
        """Return what a norm multiplies with; with an offset at least in fp32, as the models add it."""
        weight: torch.Tensor = module.weight.data
        if not self.family.norm_offset:
            return weight
        return weight.to(torch.promote_types(weight.dtype, torch.float32)) + self.family.norm_offset


def build_architecture(config: Any) -> Architecture:
    """Return what a config says; its `model_type` must be one of `FAMILIES`."""
    family = FAMILIES[config.model_type]
    size = head_size_of(config)
    scalar = float(getattr(config, family.attention_scalar) if family.attention_scalar else size)
    return Architecture(
        family=family,
        heads=HeadShape(config.num_attention_heads, config.num_key_value_heads, size),
        gate=GATES[getattr(config, family.activation)],
        eps=float(config.rms_norm_eps),
        embedding_scale=float(config.hidden_size) ** 0.5 if family.scales_embeddings else 1.0,
        layers=tuple(
            LayerKind(
                AttentionWindow(
                    scale=scalar**-0.5, window=_find_window(config, family, layer_type)
                ),
                rotation=layer_type if layer_type in (config.rope_parameters or {}) else None,
            )
            for layer_type in layer_types_of(config)
        ),
    )


def layer_types_of(config: Any) -> tuple[str | None, ...]:
    """Return the type of each layer, None where the config does not tell layers apart."""
    named = getattr(config, "layer_types", None)
    return tuple(named) if named else (None,) * int(config.num_hidden_layers)


def rotations_of(config: Any) -> dict[str | None, dict[str, Any]]:
    """Return the parameters of each rotation by `LayerKind.rotation`."""
    parameters: dict[str, Any] = config.rope_parameters or {}
    kinds = {each for each in layer_types_of(config) if each in parameters}
    return {kind: parameters[kind] for kind in kinds} if kinds else {None: parameters}


def head_size_of(config: Any) -> int:
    """Return the columns of an attention head."""
    named = getattr(config, "head_dim", None)
    return int(named or config.hidden_size // config.num_attention_heads)


def _find_window(config: Any, family: Family, layer_type: str | None) -> int | None:
    """Return how many tokens a layer sees, itself included; None for the whole document."""
    if family.slides is Slides.NEVER:
        return None
    if family.slides is Slides.BY_LAYER and layer_type != SLIDING:
        return None
    window = getattr(config, "sliding_window", None)
    return None if window is None else int(window)
