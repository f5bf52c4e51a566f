"""The Triton kernels whose mathematics differs between families, compiled for a GPU that is not there.

Run by `test_fused_kernels` in a process of its own, because under TRITON_INTERPRET nothing is compiled. What
the interpreter forgives (types, layouts, shared memory) shows here; whether it is right shows there.
"""

from typing import Any

import pytest

pytestmark = pytest.mark.torch
triton = pytest.importorskip("triton")
compiler = pytest.importorskip("triton.compiler")

CAPABILITY = 90
"""Hopper's, times ten."""
SHARED_BYTES = 99 * 1024
"""Of a block on the smallest GPUs that run the stack (CUDA's programming guide, 8.6 and 8.9)."""
BF16, FP32 = "*bf16", "*fp32"
NORM = {"width": 1152, "block": 2048}
GLU_BACKWARD = (
    {"threshold": 0, "rank": 1, "on_tensor_cores": False, "block_t": 8, "block_n": 512},
    {"threshold": 102, "rank": 16, "on_tensor_cores": False, "block_t": 32, "block_n": 128},
    {"threshold": 102, "rank": 64, "on_tensor_cores": True, "block_t": 32, "block_n": 128},
)
HEADS = {"half": 128, "with_norm": True, "block_heads": 8, "block_half": 128, "queries": 4}


def compile_kernel(kernel: Any, constants: dict[str, Any], **pointers: str) -> Any:
    """Compile; what is named neither as a constant nor as a pointer is a whole number."""
    from triton.backends.compiler import GPUTarget

    names = kernel.arg_names
    kinds = {name: pointers.get(name, "i32") for name in names}
    source = compiler.ASTSource(
        fn=kernel,
        signature=kinds | dict.fromkeys(constants, "constexpr"),
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    made = triton.compile(
        source, target=GPUTarget("cuda", CAPABILITY, 32), options={"num_warps": 8}
    )
    assert made.asm["cubin"]
    assert made.metadata.shared <= SHARED_BYTES
    return made


@pytest.mark.parametrize("weight", [BF16, FP32])
def test_norms(weight: str) -> None:
    from finetune_trainer.fused.kernels import norm

    streams = dict.fromkeys(("x", "y", "out", "dx", "dy", "stream"), BF16)
    rows = streams | {"weight": weight, "rstd": FP32, "eps": "fp32"}
    for kernel in (
        norm._rms_norm,
        norm._add_rms_norm_backward,
        norm._add_rms_norm,
        norm._rms_norm_backward,
    ):
        compile_kernel(kernel, NORM, **rows)


@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh"])
def test_gates(name: str) -> None:
    from finetune_trainer.fused.architecture import GATES
    from finetune_trainer.fused.kernels import elementwise

    gate = {"linear": GATES[name].linear, "cubic": GATES[name].cubic}
    tensors = dict.fromkeys(("gate_up", "out", "dh", "e", "a"), BF16)
    compile_kernel(elementwise._glu, gate | {"block": 2048}, **tensors)
    for tile in GLU_BACKWARD:
        compile_kernel(elementwise._glu_backward, gate | tile | {"steps": 1024}, **tensors)


@pytest.mark.parametrize("weight", [BF16, FP32])
def test_rotations_with_head_norms(weight: str) -> None:
    from finetune_trainer.fused.kernels import rotary

    tensors = dict.fromkeys(("x", "dq", "dk", "dv", "out", "rotated"), BF16)
    tensors |= dict.fromkeys(("cosines", "sines", "rstd"), FP32)
    tensors |= dict.fromkeys(("query_weight", "key_weight"), weight)
    tensors |= {"positions": "*i32", "eps": "fp32"}
    compile_kernel(rotary._rotate, HEADS | {"total": 5}, **tensors)
    compile_kernel(rotary._rotate_backward, HEADS | {"keys": 1}, **tensors)


def test_loss_over_a_large_vocabulary() -> None:
    from finetune_trainer.fused.kernels import elementwise

    compile_kernel(
        elementwise._cross_entropy,
        {"vocabulary": 262_144, "block": elementwise.VOCABULARY_BLOCK},
        logits=BF16,
        targets="*i64",
        losses=FP32,
        scale="fp32",
    )
