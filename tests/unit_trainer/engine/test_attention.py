"""The fused stack takes the fastest attention that is right on its GPU, and says which and why."""

import logging
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

TORCHS_OWN = "FlashAttention 2 of torch, variable length"
HOPPER = (9, 0)


class Candidate:
    name = "FlashAttention 4, variable length"


class Engine:
    """As much of an engine as the choice sees: what it has, and how far off a candidate is."""

    def __init__(self, error: float | Exception) -> None:
        from finetune_trainer.fused.attention import FlashAttention

        self.attention: Any = FlashAttention()
        self._error = error

    def measure_attention_error(self, attention: Any) -> float:
        assert attention.name == Candidate.name
        if isinstance(self._error, Exception):
            raise self._error
        return self._error


def choose(engine: Any, *, capability: tuple[int, int] = HOPPER, forced: Any = None) -> Any:
    from finetune_trainer.engine.attention import choose_attention

    return choose_attention(engine, capability=capability, forced=forced)


def test_what_is_right_is_taken() -> None:
    from finetune_trainer.engine.attention import try_attention

    engine: Any = Engine(0.0026)
    candidate: Any = Candidate()
    choice = try_attention(engine, candidate)
    assert engine.attention is candidate
    assert (choice.name, choice.value) == ("attention", "FlashAttention 4, variable length")
    assert choice.reason == (
        "FlashAttention 4 computes attention: it is 0.26% off torch's own in fp32."
    )


@pytest.mark.parametrize(("error", "reported"), [(0.02, "2.00%"), (float("nan"), "nan%")])
def test_what_computes_something_else_is_not_taken_and_the_log_warns(
    error: float, reported: str, caplog: pytest.LogCaptureFixture
) -> None:
    from finetune_trainer.engine.attention import try_attention

    engine: Any = Engine(error)
    candidate: Any = Candidate()
    with caplog.at_level(logging.WARNING):
        choice = try_attention(engine, candidate)
    assert engine.attention.name == choice.value == TORCHS_OWN
    assert choice.reason == (
        f"torch's flash kernels compute attention: FlashAttention 4 is {reported} off torch's own in fp32."
    )
    assert caplog.messages == [choice.reason]


def test_a_gpu_that_it_has_no_kernels_for_keeps_torchs_own() -> None:
    engine = Engine(0.0)
    choice = choose(engine, capability=(8, 0))
    assert engine.attention.name == TORCHS_OWN
    assert choice.reason == (
        "torch's flash kernels compute attention: FlashAttention 4 has no kernels for compute"
        " capability 8.0."
    )


def test_a_kernel_that_does_not_compile_is_told_by_its_first_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("flash_attn.cute")
    engine = Engine(RuntimeError("ptxas is too old\nand much more"))
    with caplog.at_level(logging.WARNING):
        choice = choose(engine)
    assert engine.attention.name == TORCHS_OWN
    assert choice.reason == (
        "torch's flash kernels compute attention: FlashAttention 4 fails on this machine (ptxas is too"
        " old)."
    )
    assert caplog.messages == [choice.reason]


def test_the_environment_can_keep_torchs_own() -> None:
    from finetune_trainer.engine.tuning import read_forced

    engine = Engine(0.0)
    choice = choose(engine, forced=read_forced({"FINETUNE_ATTENTION": "flash2"}).attention)
    assert engine.attention.name == TORCHS_OWN
    assert choice.reason == (
        "torch's flash kernels compute attention: the environment asks for them."
    )


def test_flash_attention_4_is_called_for_packed_documents_and_differentiated() -> None:
    from finetune_trainer.fused.attention import (
        AttentionWindow,
        DocumentBounds,
        PlainAttention,
        measure_error,
    )
    from finetune_trainer.fused.flash4 import FlashAttention4
    from finetune_trainer.fused.ops import HeadShape

    asked: list[dict[str, Any]] = []

    def compute(q: Any, k: Any, v: Any, **named: Any) -> tuple[Any, None]:
        asked.append({name: each for name, each in named.items() if not torch.is_tensor(each)})
        assert named["cu_seqlens_q"] is named["cu_seqlens_k"]
        documents = DocumentBounds(named["cu_seqlens_q"], named["max_seqlen_q"])
        left = named["window_size"][0]
        attention_window = AttentionWindow(
            named["softmax_scale"], window=None if left is None else left + 1
        )
        return PlainAttention().compute(
            q, k, v, documents=documents, attention_window=attention_window
        ), None

    error = measure_error(
        FlashAttention4(compute),
        HeadShape(8, 2, 32),
        attention_windows=(AttentionWindow(0.25, window=40), AttentionWindow(0.25, window=None)),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    assert error < 1e-5
    always = {"max_seqlen_q": 130, "max_seqlen_k": 130, "causal": True, "softmax_scale": 0.25}
    assert sorted(asked, key=str) == [
        always | {"window_size": (39, None)},
        always | {"window_size": (None, None)},
    ]
