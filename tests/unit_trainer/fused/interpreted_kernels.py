"""The Triton kernels, interpreted on the CPU, against the reference that says what they mean.

Run by `test_fused_kernels` in a process of its own, because Triton decides while it is imported
whether it interprets.
"""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

TOKENS = 37
"""No multiple of any tile."""
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def kernels() -> Any:
    from finetune_trainer.fused.kernels.elementwise import OPS

    return OPS


@pytest.fixture
def agree(kernels: Any) -> Callable[..., None]:
    """Do the same with both and compare what is returned, and every tensor that was passed."""
    from finetune_trainer.fused.reference_ops import OPS as REFERENCE

    def compare(operation: str, *arguments: Any, **named: Any) -> None:
        results = []
        for ops in (kernels, REFERENCE):
            copies = [each.clone() if torch.is_tensor(each) else each for each in arguments]
            result = getattr(ops, operation)(*copies, **named)
            results.append([*copies, result])
        for ours, expected in zip(*results, strict=True):
            if torch.is_tensor(expected) and expected.is_floating_point():
                difference = (ours - expected).norm() / expected.norm().clamp_min(1e-12)
                assert float(difference) < TOLERANCE, operation

    return compare


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def build_mask(*, slots: int, width: int = 16) -> Any:
    from finetune_trainer.fused.dropout import Mask

    return Mask(seed=12345, threshold=102, first_token=1000, slots=slots, width=width)


def test_norm_and_its_backward(agree: Callable[..., None], kernels: Any) -> None:
    x, weight = torch.randn(TOKENS, 96), torch.rand(96) + 0.5
    weight[3] = 0.0
    extended = torch.zeros(TOKENS, 128)
    agree("rms_norm", x, weight, extended[:, :96], eps=1e-5)
    rstd = kernels.rms_norm(x, weight, extended[:, :96], eps=1e-5)
    agree(
        "add_rms_norm_backward",
        torch.randn(TOKENS, 96),
        torch.randn(TOKENS, 96),
        y=extended[:, :96],
        weight=weight,
        rstd=rstd,
    )


def test_norm_of_an_output_and_its_backward(agree: Callable[..., None], kernels: Any) -> None:
    stream, x, weight = torch.randn(TOKENS, 96), torch.randn(TOKENS, 96), torch.rand(96) - 0.5
    weight[3] = 0.0
    agree("add_rms_norm", stream, x, weight, eps=1e-5)
    rstd = kernels.add_rms_norm(stream, x, weight, eps=1e-5)
    extended = torch.zeros(TOKENS, 128)
    agree(
        "rms_norm_backward",
        torch.randn(TOKENS, 128)[:, :96],
        extended[:, :96],
        x=x,
        weight=weight,
        rstd=rstd,
    )


def test_a_weight_of_32_bits_is_multiplied_before_anything_is_rounded(kernels: Any) -> None:
    from finetune_trainer.fused.reference_ops import OPS as REFERENCE

    x, weight = torch.randn(TOKENS, 96).bfloat16(), torch.rand(96) + 0.5
    ours, expected = torch.zeros(TOKENS, 96), torch.zeros(TOKENS, 96)
    kernels.rms_norm(x, weight, ours, eps=1e-5)
    REFERENCE.rms_norm(x.float(), weight, expected, eps=1e-5)
    assert float((ours - expected).norm() / expected.norm()) < TOLERANCE


@pytest.mark.parametrize("with_norm", [False, True], ids=["plain", "head norms"])
@pytest.mark.parametrize(
    ("queries", "keys", "size"), [(12, 4, 16), (4, 2, 48)], ids=["12/4 x 16", "4/2 x 48"]
)
def test_rotation_and_its_backward(
    agree: Callable[..., None], *, with_norm: bool, queries: int, keys: int, size: int
) -> None:
    from finetune_trainer.fused.ops import HeadNorm, HeadShape, Rotation
    from finetune_trainer.fused.reference_ops import OPS as REFERENCE

    heads = HeadShape(queries, keys, size)
    angles = torch.randn(50, size // 2)
    rotation = Rotation(
        angles.cos(), angles.sin(), torch.randint(0, 50, (TOKENS,), dtype=torch.int32)
    )
    norm = HeadNorm(torch.rand(size) + 0.5, torch.rand(size) + 0.5, 1e-6) if with_norm else None
    qkv = torch.randn(TOKENS, heads.query_width + 2 * heads.key_width)
    agree("rotate", qkv, rotation, heads=heads, norm=norm)
    rstd = REFERENCE.rotate(qkv, rotation, heads=heads, norm=norm)
    gradients = tuple(torch.randn(TOKENS, count, size) for count in (queries, keys, keys))
    agree(
        "rotate_backward",
        gradients,
        torch.zeros_like(qkv),
        rotation,
        heads=heads,
        norm=norm,
        rotated=qkv,
        rstd=rstd,
    )


def build_gate(name: str) -> Any:
    from finetune_trainer.fused.architecture import GATES

    return GATES[name]


@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh"])
def test_gate(agree: Callable[..., None], name: str) -> None:
    agree("glu", torch.randn(TOKENS, 464), torch.zeros(TOKENS, 200), gate=build_gate(name))


@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("width", [None, 16, 64], ids=["no dropout", "rank 16", "rank 64"])
def test_backward_of_the_gate(agree: Callable[..., None], width: int | None, name: str) -> None:
    dropped = None
    if width is not None:
        mask = build_mask(slots=1, width=width)
        dropped = (torch.randn(TOKENS, width), torch.randn(width, 200), mask)
    agree(
        "glu_backward",
        torch.randn(TOKENS, 464) * 3,
        torch.randn(TOKENS, 200),
        gate=build_gate(name),
        dropped=dropped,
    )


@pytest.mark.parametrize("width", [16, 64], ids=["rank 16", "rank 64"])
@pytest.mark.parametrize("slots", [1, 2, 3], ids=["one", "two", "three"])
def test_products_with_dropped_inputs(agree: Callable[..., None], slots: int, width: int) -> None:
    mask = build_mask(slots=slots, width=width)
    x, a = torch.randn(TOKENS, 100), torch.randn(slots * width, 100)
    e = torch.randn(TOKENS, slots * width)
    agree("dropped_product", x, a, torch.zeros(TOKENS, slots * width), mask=mask)
    agree("add_dropped_product", x, e, a, mask=mask)
    agree("dropped_outer", e, x, mask=mask)


def test_loss_and_gradient_of_logits(agree: Callable[..., None]) -> None:
    agree(
        "cross_entropy",
        torch.randn(TOKENS, 5000) * 4,
        torch.randint(0, 5000, (TOKENS,)),
        scale=0.01,
    )


def test_all_copies_are_made_at_once() -> None:
    from finetune_trainer.fused.adapter_sync import AdapterSync
    from finetune_trainer.fused.kernels.copy import build_table
    from finetune_trainer.fused.kernels.copy_spec import Copy

    matrix = torch.zeros(300, 100, dtype=torch.bfloat16)
    a, b = (torch.nn.Parameter(torch.randn(shape)) for shape in ((16, 80), (200, 16)))
    copies = [
        Copy(matrix[200:216, :80], a, 1.5, is_b=False),
        Copy(matrix[:200, 80:96], b, 1.0, is_b=True),
    ]
    for with_adapter in (True, False):
        matrix.zero_()
        AdapterSync(copies).make(with_adapter=with_adapter)
        expected = matrix.clone()
        matrix.zero_()
        build_table(copies).copy(with_adapter=with_adapter)
        # Interpreted, a conversion to bf16 cuts off where hardware rounds.
        assert torch.allclose(matrix, expected, rtol=2**-7)
        assert bool(matrix[:200, 80:96].any()) is with_adapter


def test_tiles_are_loaded_ahead_only_as_far_as_a_small_gpus_memory_goes() -> None:
    from finetune_trainer.fused.kernels.dropout import count_stages

    anywhere = torch.zeros(1)
    assert count_stages(anywhere, tile_bytes=20_480, most=4) == 4
    assert count_stages(anywhere, tile_bytes=32_768, most=4) == 3
    assert count_stages(anywhere, tile_bytes=200_000, most=4) == 1
