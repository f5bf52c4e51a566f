"""A model's config.json in, its shape and exact parameter counts out.

Sizes are read as transformers reads them: explicit values first, then what the family's class fills
in. `memory` turns a shape into bytes. Pure: it reads a mapping that someone else has fetched, and it
never opens a file or imports a model library.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from finetune_resolver.errors import UnsupportedModelError

ALL_LINEAR = "AllLinear"
"""The word that stands for every linear module of the decoder layers."""
TINY_UP_TO_PARAMETERS = 200_000_000
"""Weights up to which full fine-tuning is cheap. The guide names DistilGPT2 (82 M); the bound lies
between SmolLM2-135M and the next size up, SmolLM2-360M (assumption)."""
SHAPES_REMEMBERED = 256
"""Models and module lists whose width was added up."""
EXPERT_COUNTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
)
"""Fields that count a mixture's experts: Qwen and OLMoE, Mixtral and gpt-oss, DeepSeek, DBRX and
Ernie, Hunyuan. A dense config lacks them or has at most one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """What a model type means beyond the sizes in its config.json."""

    query_key_value_bias: bool = False
    """The projections have biases whatever the config says."""
    bias_by_config: bool = False
    """`attention_bias` adds biases to q, k, v and o."""
    query_key_norms: bool = False
    """Each layer normalises queries and keys, one weight an element of a head."""
    output_norms: bool = False
    """Each layer also normalises what attention and MLP put out."""
    fused: bool = False
    """q, k, v are one module, and gate and up another."""
    tied_unless_said: bool = False
    """Value of `tie_word_embeddings` where the config does not say."""
    defaults: Mapping[str, int] = field(default_factory=dict)
    """Sizes that transformers leaves out of a nested config, because they are the class's own."""


_GEMMA3 = _Family(
    bias_by_config=True,
    query_key_norms=True,
    output_norms=True,
    tied_unless_said=True,
    defaults={
        "hidden_size": 2304,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "intermediate_size": 9216,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    },
)
FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(bias_by_config=True),
    "mistral": _Family(),
    "qwen2": _Family(query_key_value_bias=True),
    "qwen3": _Family(bias_by_config=True, query_key_norms=True),
    "gemma": _Family(bias_by_config=True, tied_unless_said=True),
    "gemma2": _Family(bias_by_config=True, output_norms=True, tied_unless_said=True),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "phi3": _Family(fused=True),
}
"""`model_type` to what it means; counts of these are exact (transformers 5.17's modeling files).
SmolLM2 is of type llama, Qwen2.5 of type qwen2."""
_UNKNOWN = _Family()
FUSED_NAMES: Mapping[str, str] = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""Llama's modules to those that hold them in a model with fused projections."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a dense decoder-only transformer."""

    model_type: str
    hidden_size: int
    """Width of the residual stream."""
    layers: int
    attention_heads: int
    key_value_heads: int
    head_size: int
    """Width of one head; heads times head size need not be the hidden size."""
    intermediate_size: int
    """Width of the gated MLP."""
    vocabulary_size: int
    max_positions: int
    """Longest sequence that the model knows, in tokens."""
    tied_embeddings: bool
    """The output head is the embedding matrix."""
    fused_projections: bool = False
    """qkv_proj and gate_up_proj instead of q, k, v, gate and up."""
    bias_elements: int = 0
    """Bias elements of one layer."""
    norm_elements: int = 0
    """Elements of one layer's norms."""
    head_norms: bool = False
    """Each query and key head has a norm."""
    output_norms: bool = False
    """What attention and MLP put out has a norm."""
    exact: bool = True
    """False for an unknown model type: counted as Llama's layers are built."""
    not_counted: tuple[str, ...] = ()
    """Parts of the checkpoint that are no language model, such as a vision tower."""

    @cached_property
    def query_size(self) -> int:
        """Width of all queries of a token."""
        return self.attention_heads * self.head_size

    @cached_property
    def key_size(self) -> int:
        """Width of all keys of a token, and of all values."""
        return self.key_value_heads * self.head_size

    # NB: a dataclass would hash its fifteen fields each time that a shape is looked up.
    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.model_type, self.parameters(), self.layers))

    def parameters(self) -> int:
        """Return the number of weights; a tied head is counted once."""
        return self._parameters

    @cached_property
    def _parameters(self) -> int:
        return self.linear_parameters() + self.other_parameters()

    def linear_parameters(self) -> int:
        """Return the weights of the layers' linear modules: what 4-bit loading quantises."""
        return self._linear_parameters

    @cached_property
    def _linear_parameters(self) -> int:
        return self.layers * sum(fan_in * fan_out for fan_in, fan_out in self.linears().values())

    def other_parameters(self) -> int:
        """Return the weights that stay in 16 bits: embeddings, output head, norms, biases."""
        matrices = 1 if self.tied_embeddings else 2
        final_norm = self.hidden_size
        a_layer = self.norm_elements + self.bias_elements
        return (
            matrices * self.vocabulary_size * self.hidden_size + self.layers * a_layer + final_norm
        )

    def linears(self) -> Mapping[str, tuple[int, int]]:
        """Return each linear module of a layer with its input and output width."""
        return self._linears

    # One resolution asks a dozen times; computed once, it takes half the time.
    @cached_property
    def _linears(self) -> Mapping[str, tuple[int, int]]:
        hidden, middle = self.hidden_size, self.intermediate_size
        query, key = self.query_size, self.key_size
        if self.fused_projections:
            return {
                "qkv_proj": (hidden, query + 2 * key),
                "o_proj": (query, hidden),
                "gate_up_proj": (hidden, 2 * middle),
                "down_proj": (middle, hidden),
            }
        return {
            "q_proj": (hidden, query),
            "k_proj": (hidden, key),
            "v_proj": (hidden, key),
            "o_proj": (query, hidden),
            "gate_proj": (hidden, middle),
            "up_proj": (hidden, middle),
            "down_proj": (middle, hidden),
        }

    def has(self, modules: Iterable[str]) -> bool:
        """Whether every one of these modules is in a layer."""
        return self.linears().keys() >= set(modules)

    def own_names(self, modules: Iterable[str]) -> list[str]:
        """Return Llama's names of modules as this model calls them, each once."""
        if not self.fused_projections:
            return list(modules)
        return list(dict.fromkeys(FUSED_NAMES.get(name, name) for name in modules))

    def adapted(self, modules: Iterable[str]) -> frozenset[str]:
        """Return the names of the linear modules that an adapter is put on.

        Raises:
            UnsupportedModelError: the model has no such module.
        """
        linears = self.linears()
        wanted = frozenset(modules)
        if wanted == {ALL_LINEAR}:
            return frozenset(linears)
        missing = sorted(wanted - linears.keys())
        if missing or not wanted:
            raise UnsupportedModelError(
                f"lora.targetModules names {', '.join(missing) or 'nothing'}, which a model of type "
                f'"{self.model_type}" lacks, expected some of {", ".join(linears)}; correct the list, '
                f"or write {ALL_LINEAR}."
            )
        return wanted

    def lora_parameters(self, *, rank: int, modules: Iterable[str]) -> int:
        """Return the trained weights of an adapter: rank times input plus output width, each module.

        Args:
            rank: LoRA's r.
            modules: names of adapted modules, or the single word AllLinear.
        """
        return rank * self.layers * _adapted_width(self, tuple(modules))

    def adapter_file_bytes(
        self, *, rank: int, modules: Iterable[str], bytes_per_weight: int = 2
    ) -> int:
        """Return the size of a published adapter, 16-bit unless said: nothing of the base (C31).

        Args:
            rank: LoRA's r.
            modules: names of adapted modules, or the single word AllLinear.
            bytes_per_weight: 2 for 16 bits, 4 for 32.
        """
        return bytes_per_weight * self.lora_parameters(rank=rank, modules=modules)

    def is_tiny(self) -> bool:
        """Whether full fine-tuning is as affordable as an adapter (G-PR-2)."""
        return self.parameters() <= TINY_UP_TO_PARAMETERS


@lru_cache(maxsize=SHAPES_REMEMBERED)
def _adapted_width(shape: ModelShape, modules: tuple[str, ...]) -> int:
    linears = shape.linears()
    return sum(sum(linears[name]) for name in shape.adapted(modules))


def shape_from_config(config: Mapping[str, object]) -> ModelShape:
    """Return the shape that a config.json describes; of a multimodal model, its language part.

    Raises:
        UnsupportedModelError: a mixture of experts, an encoder-decoder, or a config without a size.
    """
    fields = _Fields.of(config)
    family = fields.family
    _refuse_other_architectures(fields)
    hidden = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    head_size = fields.optional_size("head_dim") or fields.divide_hidden(hidden, heads=heads)
    key_value_heads = fields.key_value_heads(heads)
    middle = fields.size("intermediate_size")
    query_key_norms = 2 * head_size if family.query_key_norms else 0
    biases = _bias_elements(
        fields, attention=(heads + 2 * key_value_heads) * head_size, hidden=hidden, middle=middle
    )
    return ModelShape(
        model_type=fields.model_type,
        hidden_size=hidden,
        layers=fields.size("num_hidden_layers"),
        attention_heads=heads,
        key_value_heads=key_value_heads,
        head_size=head_size,
        intermediate_size=middle,
        vocabulary_size=fields.size("vocab_size"),
        max_positions=fields.size("max_position_embeddings"),
        tied_embeddings=fields.tied(),
        fused_projections=family.fused,
        bias_elements=biases,
        norm_elements=(4 if family.output_norms else 2) * hidden + query_key_norms,
        head_norms=family.query_key_norms,
        output_norms=family.output_norms,
        exact=fields.is_known(),
        not_counted=fields.not_counted(),
    )


def _bias_elements(fields: "_Fields", *, attention: int, hidden: int, middle: int) -> int:
    """Return the bias elements of one layer; `attention` is the width of q, k and v together."""
    elements = 0
    if fields.family.query_key_value_bias:
        elements += attention
    if fields.family.bias_by_config and fields.flag("attention_bias"):
        elements += attention + hidden
    if fields.model_type == "llama" and fields.flag("mlp_bias"):
        elements += 2 * middle + hidden
    return elements


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of a config.json that hold sizes, and those around them."""

    outer: Mapping[str, object]
    inner: Mapping[str, object]
    """The language part: `text_config` where there is one, else the whole."""
    model_type: str

    @classmethod
    def of(cls, config: Mapping[str, object]) -> "_Fields":
        """Return the fields of a whole config.json."""
        text = config.get("text_config")
        inner = text if isinstance(text, Mapping) else config
        named = inner.get("model_type") or config.get("model_type")
        return cls(config, inner, named if isinstance(named, str) else "unknown")

    @property
    def family(self) -> _Family:
        """What the model type means; of an unknown one, what Llama's would."""
        return FAMILIES.get(self.model_type, _UNKNOWN)

    def is_known(self) -> bool:
        """Whether the model type is one whose layers are known."""
        return self.model_type in FAMILIES

    def size(self, name: str) -> int:
        """Return a size that the config or its family's class must give."""
        value = self.optional_size(name)
        if value is not None:
            return value
        raise UnsupportedModelError(
            f'config.json of a model of type "{self.model_type}" has no {name}, expected a positive '
            "integer; use a model whose config.json names it, or declare resources.gpuMemoryClass and "
            "method so that nothing has to be computed."
        )

    def optional_size(self, name: str) -> int | None:
        """Return a size, or None where neither the config nor its family's class gives one."""
        value = self.inner.get(name)
        if value is None:
            return self.family.defaults.get(name)
        # bool is an int in Python; true is no size.
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UnsupportedModelError(
                f'config.json of a model of type "{self.model_type}" has {name} {value!r}, expected a '
                "positive integer; correct the file or use another model."
            )
        return value

    def key_value_heads(self, heads: int) -> int:
        """Return the number of key-value heads; Llama's early configs leave it out."""
        if self.model_type == "llama":
            return self.optional_size("num_key_value_heads") or heads
        return self.size("num_key_value_heads")

    def flag(self, name: str) -> bool:
        """Return whether a switch is on; absent is off."""
        return self.inner.get(name) is True

    def divide_hidden(self, hidden: int, *, heads: int) -> int:
        """Return the width of a head that shares the hidden size.

        Args:
            hidden: width of the hidden state.
            heads: attention heads.
        """
        if hidden % heads:
            raise UnsupportedModelError(
                f'config.json of a model of type "{self.model_type}" has hidden_size {hidden}, which '
                f"num_attention_heads {heads} does not divide, and no head_dim; correct the file or use "
                "another model."
            )
        return hidden // heads

    def tied(self) -> bool:
        """Return whether the output head is the embedding matrix."""
        for holder in (self.inner, self.outer):
            said = holder.get("tie_word_embeddings")
            if isinstance(said, bool):
                return said
        if not self.is_known():
            raise UnsupportedModelError(
                f'config.json of a model of type "{self.model_type}" has no tie_word_embeddings, '
                "expected true or false; use a model whose config.json names it, or declare "
                "resources.gpuMemoryClass and method so that nothing has to be computed."
            )
        return self.family.tied_unless_said

    def not_counted(self) -> tuple[str, ...]:
        """Return the parts of a multimodal model that are left out of every count."""
        parts = {"vision_config": "vision tower", "audio_config": "audio tower"}
        return tuple(name for key, name in parts.items() if self.outer.get(key))


def _refuse_other_architectures(fields: _Fields) -> None:
    """Refuse what is built otherwise than a dense decoder."""
    for name in EXPERT_COUNTS:
        count = fields.inner.get(name)
        if isinstance(count, int) and count > 1:
            raise UnsupportedModelError(
                f'The base model is a mixture of experts (model_type "{fields.model_type}", {name} '
                f"{count}), which is not supported: its adapters and its memory differ from a dense "
                "model's; use a dense model of the same family."
            )
    if fields.outer.get("is_encoder_decoder") is True:
        raise UnsupportedModelError(
            f'The base model is an encoder-decoder (model_type "{fields.model_type}"), expected a '
            "decoder-only language model; use one such as Llama, Mistral, Qwen, Gemma or Phi."
        )
