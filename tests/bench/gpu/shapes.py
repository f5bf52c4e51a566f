"""What is measured: the shapes of published models, and how their work is counted.

Beside `suite`, which says how each shape is trained. Weights are random at real shapes: speed and
memory depend on nothing else, and a machine without network has no others.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

MFU_FORMULA = (
    "MFU = 4 * N * tokens per second / peak, N the weights of the linear layers with the output head"
    " (tied or not) and without the embedding lookup, tokens without padding; peak is the card's"
    " dense bf16 rate. Adapter, attention and recomputation do not count."
)
BF16_PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
"""Dense bf16 operations a second by a part of the card's name (the vendor's data sheets, SXM)."""


@dataclass(frozen=True)
class Shape:
    """A model of one size, built like Llama unless its family says otherwise."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int = 128_256
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 131_072
    rope_theta: float = 500_000.0
    sliding_window: int | None = None
    """Tokens that most layers of a Gemma see."""
    family: str = "Llama"
    """Whose config and class of transformers it takes."""

    @property
    def linear_weights(self) -> int:
        """Weights that a token is multiplied with: N of the formula."""
        query = self.num_attention_heads * self.head_dim
        key = self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * query + 2 * key)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (attention + mlp) + self.hidden_size * self.vocab_size

    def config(self) -> dict[str, Any]:
        """Return what transformers' config of its family takes."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("name", "family") and value is not None
        }


LLAMA_8B = Shape(
    name="8B",
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
)
"""Llama-3.1-8B."""
LLAMA_1B = Shape(
    name="1B",
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    tie_word_embeddings=True,
)
"""Llama-3.2-1B, whose output head is its embedding."""
LLAMA_8B_4_LAYERS = Shape(
    name="8B-4-layers",
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=4,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
)
"""The 8B's width in four layers: numerics in fp32 fit beside it."""
GEMMA_1B = Shape(
    name="gemma-1B",
    hidden_size=1152,
    intermediate_size=6912,
    num_hidden_layers=26,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=256,
    vocab_size=262_144,
    tie_word_embeddings=True,
    max_position_embeddings=32_768,
    rope_theta=1_000_000.0,
    sliding_window=512,
    family="Gemma3",
)
"""Gemma-3-1B; every sixth layer sees the whole text."""
GEMMA_1B_6_LAYERS = replace(GEMMA_1B, name="gemma-1B-6-layers", num_hidden_layers=6)
"""Its width in as many layers as have one of each kind: numerics in fp32."""
TINY = Shape(
    name="tiny",
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=1024,
    max_position_embeddings=512,
)
"""For a dry run without a GPU."""
GEMMA_TINY = Shape(
    name="gemma-tiny",
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=32,
    vocab_size=1024,
    tie_word_embeddings=True,
    max_position_embeddings=512,
    sliding_window=16,
    family="Gemma3",
)
SHAPES = {
    shape.name: shape
    for shape in (
        LLAMA_8B,
        LLAMA_1B,
        LLAMA_8B_4_LAYERS,
        GEMMA_1B,
        GEMMA_1B_6_LAYERS,
        TINY,
        GEMMA_TINY,
    )
}


def estimate_mfu(shape: Shape, *, tokens_per_s: float, card: str) -> float | None:
    """Return the share of the card's peak by `MFU_FORMULA`; None for a card without a known peak."""
    peak = next((flops for name, flops in BF16_PEAK_FLOPS.items() if name in card), None)
    return None if peak is None else 4 * shape.linear_weights * tokens_per_s / peak
