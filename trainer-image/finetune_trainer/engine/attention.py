"""Which attention the fused stack computes with: the fastest that is right on this GPU.

Called by `engines` before the start-up check, so that what is checked is what trains. An implementation
that cannot run or computes something else is replaced by torch's own, and the log says why.
"""

import logging
from importlib import import_module
from typing import Any

from finetune_trainer.engine.tuning import AttentionName, Choice
from finetune_trainer.fused.attention import Attention
from finetune_trainer.fused.engine import FusedEngine

LARGEST_ERROR = 0.01
"""Relative, of output and gradients against torch's attention in fp32. In bf16 torch's flash kernels are
0.003 off and FlashAttention 4's 0.0026 (measured on one H100)."""

log = logging.getLogger(__name__)


def choose_attention(
    engine: FusedEngine, *, capability: tuple[int, int], forced: AttentionName | None
) -> Choice:
    """Give the engine FlashAttention 4 where it runs and is right; return what it has now, and why."""
    if forced is AttentionName.FLASH_2:
        return _keep(engine, "the environment asks for them")
    # Heavy, and of no use without a GPU.
    flash4: Any = import_module("finetune_trainer.fused.flash4")
    if obstacle := flash4.find_obstacle(capability):
        return _keep(engine, f"FlashAttention 4 {obstacle}")
    try:
        return try_attention(engine, flash4.FlashAttention4())
    except flash4.find_faults() as fault:
        first_line = str(fault).strip().partition("\n")[0][:200]
        return _warn(engine, f"FlashAttention 4 fails on this machine ({first_line})")


def try_attention(engine: FusedEngine, candidate: Attention) -> Choice:
    """Give the engine an implementation if it computes what torch's own does in fp32."""
    error = engine.measure_attention_error(candidate)
    # NB: written so that NaN fails.
    if not error <= LARGEST_ERROR:
        return _warn(
            engine, f"{candidate.name.partition(',')[0]} is {error:.2%} off torch's own in fp32"
        )
    engine.attention = candidate
    return Choice(
        "attention",
        candidate.name,
        f"FlashAttention 4 computes attention: it is {error:.2%} off torch's own in fp32.",
    )


def _keep(engine: FusedEngine, why: str) -> Choice:
    return Choice(
        "attention", engine.attention.name, f"torch's flash kernels compute attention: {why}."
    )


def _warn(engine: FusedEngine, why: str) -> Choice:
    choice = _keep(engine, why)
    log.warning(choice.reason)
    return choice
