"""What an evaluation of the held-out part found: made by `evaluate`, kept by `train`, reported everywhere."""

from dataclasses import dataclass
from math import log


@dataclass(frozen=True)
class HeldOutLoss:
    """Loss over the whole held-out part."""

    nats: float
    """Sum over all supervised tokens."""
    tokens: int
    """Supervised tokens."""
    bytes: int
    """UTF-8 bytes of the supervised text."""
    examples: int

    @property
    def loss(self) -> float:
        """Nats per supervised token."""
        return self.nats / max(1, self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte: comparable between tokenizers."""
        return self.nats / log(2) / max(1, self.bytes)
