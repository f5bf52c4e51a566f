"""What a profile says of a step: kernels by kind, products by shape, shares that sum to one."""

from dataclasses import dataclass, field

import pytest

from tests.bench.gpu.step_profile import STEPS, build_shares, count_products, find_kind


@dataclass
class Operation:
    key: str
    input_shapes: list[list[int]]
    self_device_time_total: float
    count: int = STEPS


@dataclass
class Seen:
    """What torch's profiler gives, as far as it is read."""

    operations: list[Operation] = field(default_factory=list)

    def key_averages(self, *, group_by_input_shape: bool) -> list[Operation]:
        assert group_by_input_shape
        return self.operations


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("nvjet_sm90_tst_64x72_64x12_1x4_h_bz_TNT", "products"),
        ("_glu_backward", "gate"),
        ("Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD (Pinned -> Device)"),
    ],
)
def test_a_kernel_has_a_kind_or_its_own_name(kernel: str, kind: str) -> None:
    assert find_kind(kernel) == kind


def test_a_product_is_its_two_factors_whatever_it_is_added_to_or_written_to() -> None:
    milliseconds = 1e3 * STEPS
    seen = Seen(
        [
            Operation("aten::mm", [[4096, 2048], [2048, 64], [4096, 64]], 2 * milliseconds),
            Operation("aten::addmm_", [[4096, 8192], [4096, 2048], [2048, 8192]], milliseconds),
            Operation("aten::add", [[4096, 8192]], milliseconds),
        ]
    )
    assert count_products(seen) == [
        {"shape": [4096, 2048, 64], "is_small": True, "calls": 1, "ms": 2.0, "tflops": 0.5},
        {"shape": [4096, 2048, 8192], "is_small": False, "calls": 1, "ms": 1.0, "tflops": 137.4},
    ]


def test_what_no_kernel_takes_is_idle() -> None:
    reported = {
        "step_ms": 100.0,
        "kernels": {"products": 70.0, "attention": 10.0},
        "products": [{"ms": 5.0, "is_small": True}, {"ms": 65.0, "is_small": False}],
    }
    assert build_shares(reported) == pytest.approx(
        {"products": 0.65, "attention": 0.1, "small products (adapter)": 0.05, "idle": 0.2}
    )
