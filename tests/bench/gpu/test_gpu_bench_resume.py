"""What the resume check says of what it saw."""

from tests.bench.gpu.resume import judge


def judge_of(*, loss: float, weights: float = 0.0, noise: float = 0.0, device: str) -> str:
    found = {"noise": {"loss": noise}, "resumed": {"loss": loss, "weights": weights}}
    return judge(found, device=device)


def test_on_a_cpu_a_resumed_run_is_equal():
    assert judge_of(loss=0.0, device="cpu") == ""
    assert judge_of(loss=0.0, weights=1e-7, device="cpu") == (
        "a resumed run is not equal: {'loss': 0.0, 'weights': 1e-07}"
    )


def test_on_a_gpu_it_may_differ_as_calm_runs_do():
    assert judge_of(loss=0.03, noise=0.01, device="cuda") == ""
    assert judge_of(loss=0.05, noise=0.01, device="cuda") == (
        "a resumed run is 0.05000 nats off, allowed 0.04000"
    )
    assert judge_of(loss=0.001, device="cuda") == ""
