"""FlashAttention 4: faster kernels for Hopper and Blackwell, compiled when they are first used.

The only module that imports the package. It is imported on a GPU alone, by `attention_choice` and, ahead
of time, by the pipeline: the import takes 7 s and the kernels of a head size 6 s more (measured).
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from finetune_trainer.fused.attention import AttentionWindow, AutogradAttention, DocumentBounds

CAPABILITIES = frozenset({9, 10})
"""Major compute capabilities that it has forward and backward kernels for, as torch's registry of
implementations lists them."""

# Of the package's own arguments, at each kernel that it compiles; they cannot be changed here.
warnings.filterwarnings("ignore", message=r"Argument aux_data .* cannot be converted")

package: Any = None
"""None where it cannot be imported."""
absence = ""
"""Why it cannot."""
try:
    package = import_module("flash_attn.cute")
except (ImportError, OSError) as fault:
    # Not installed, or without the libraries that it needs: torch's own kernels are always there.
    absence = str(fault)


class FlashAttention4(AutogradAttention):
    """The package's public function, with the autograd that it brings."""

    name = "FlashAttention 4, variable length"

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self._function = function or package.flash_attn_varlen_func

    def compute(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        documents: DocumentBounds,
        attention_window: AttentionWindow,
    ) -> torch.Tensor:
        """Run the kernel, which takes fewer key heads than query heads."""
        ends, longest = documents.boundaries, documents.longest
        out: torch.Tensor
        out, _ = self._function(
            q,
            k,
            v,
            cu_seqlens_q=ends,
            cu_seqlens_k=ends,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            causal=True,
            softmax_scale=attention_window.scale,
            window_size=(attention_window.left_of(documents), None),
        )
        return out


def find_obstacle(capability: tuple[int, int]) -> str:
    """Return why the package cannot run on a GPU of this compute capability; nothing where it can."""
    if capability[0] not in CAPABILITIES:
        return f"has no kernels for compute capability {capability[0]}.{capability[1]}"
    return "" if package is not None else f"cannot be imported ({absence})"


def find_faults() -> tuple[type[Exception], ...]:
    """Return what is raised where its kernels cannot be compiled or started."""
    # The driver's and torch's errors, then the package's own checks of GPU, shapes and versions.
    faults = (RuntimeError, AssertionError, TypeError, ValueError)
    if package is None:
        return faults
    compiler: Any = import_module("cutlass.base_dsl.common")
    return (*faults, compiler.DSLBaseError)
