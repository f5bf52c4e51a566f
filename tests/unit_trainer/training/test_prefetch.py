"""A step prepared while the one before it is computed is, bit for bit, the step prepared late."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit_trainer.tiny import TinyRow, build_plan, build_rows, write_model

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

STEPS = 4
BATCHES = [tuple(build_rows(8, seed=seed)) for seed in range(STEPS)]
OF_DROPOUT = {"lora__dropout": 0.1}
WHOLE_STEP, SEVERAL_MICRO_BATCHES = 10_000, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def next_batch(step: int) -> Sequence[TinyRow]:
    return BATCHES[step + 1] if step + 1 < STEPS else ()


def nothing(step: int) -> Sequence[TinyRow]:
    del step
    return ()


@dataclass
class Memory:
    """A GPU's: what does not fit, and when."""

    most_tokens: int = 1_000_000
    """Of a micro-batch."""
    too_full_to_prepare: int = 0
    """How often there is no room for a micro-batch beside the step that is computed."""
    computing: bool = False


@dataclass
class Seen:
    """What a few steps showed."""

    steps: list[tuple[float, float, int]] = field(default_factory=list)
    adapter: dict[str, Any] = field(default_factory=dict)
    halvings: int = 0
    draw: Any = None
    """The next random number."""
    prepared: list[bool] = field(default_factory=list)
    """Of each micro-batch, whether it came prepared."""


def build_engine(loaded: Any, *, memory: Memory, seen: Seen) -> Any:
    from finetune_trainer.fused.device_batch import DeviceBatch
    from finetune_trainer.fused.engine import FusedEngine

    class Watched(FusedEngine):
        def prepare(self, micro_batch: Any) -> Any:
            if not memory.computing and memory.too_full_to_prepare:
                memory.too_full_to_prepare -= 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().prepare(micro_batch)

        def sum_of_losses(self, micro_batch: Any, *, divisor: int) -> Any:
            if sum(micro_batch.lengths) > memory.most_tokens:
                raise torch.OutOfMemoryError("CUDA out of memory")
            seen.prepared.append(isinstance(micro_batch, DeviceBatch))
            memory.computing = True
            loss = super().sum_of_losses(micro_batch, divisor=divisor)
            memory.computing = False
            return loss

    return Watched(loaded.network, device=loaded.device)


def do_steps(
    folder: Path,
    *,
    following: Callable[[int], Sequence[TinyRow]],
    token_budget: int = WHOLE_STEP,
    dtype: Any = torch.float32,
    memory: Memory | None = None,
    before: Callable[[int, Any], None] = lambda step, budget: None,
) -> Seen:
    from finetune_trainer.model import load
    from finetune_trainer.steps.micro_batches import TokenBudget, count_supervised
    from finetune_trainer.training.optimizer_step import Stepper

    plan, seen = build_plan(**OF_DROPOUT), Seen()
    loaded = load.load(plan, folder=folder)
    loaded.network.to(dtype).train()
    engine = build_engine(loaded, memory=memory or Memory(), seen=seen)
    loaded, budget = replace(loaded, engine=engine, dtype=dtype), TokenBudget(token_budget)
    stepper = Stepper(loaded, training=plan.training, budget=budget)
    for step, batch in enumerate(BATCHES):
        before(step, budget)
        done = stepper.do(
            batch,
            step=step,
            supervised=sum(map(count_supervised, batch)),
            learning_rate=1e-2,
            following=partial(following, step),
        )
        seen.steps.append(done)
    seen.adapter, seen.halvings = loaded.adapter_state(), budget.halvings
    seen.draw = torch.rand(())
    return seen


def assert_same(found: Seen, expected: Seen) -> None:
    assert found.steps == expected.steps
    assert found.halvings == expected.halvings
    assert found.adapter.keys() == expected.adapter.keys()
    assert all(found.adapter[name].equal(value) for name, value in expected.adapter.items())
    assert found.draw == expected.draw


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("budget", [WHOLE_STEP, SEVERAL_MICRO_BATCHES], ids=["one", "several"])
def test_steps_prepared_ahead_are_those_prepared_late(
    folder: Path, budget: int, dtype: Any
) -> None:
    late = do_steps(folder, following=nothing, token_budget=budget, dtype=dtype)
    ahead = do_steps(folder, following=next_batch, token_budget=budget, dtype=dtype)
    assert_same(ahead, late)
    assert not any(late.prepared)
    # Of each step but the first, the first micro-batch; the device is busy with it while others are made.
    assert sum(ahead.prepared) == STEPS - 1
    assert len(ahead.prepared) == len(late.prepared) == sum(done[2] for done in late.steps)
    assert {done[2] > 1 for done in late.steps} == {budget == SEVERAL_MICRO_BATCHES}


def test_a_budget_that_shrank_in_between_splits_the_step_anew(folder: Path) -> None:
    def shrink(step: int, budget: Any) -> None:
        if step == 2:
            budget.halve()

    late = do_steps(folder, following=nothing, token_budget=180, before=shrink)
    ahead = do_steps(folder, following=next_batch, token_budget=180, before=shrink)
    assert_same(ahead, late)
    assert sum(ahead.prepared) == STEPS - 2
    assert late.steps[2][2] > late.steps[1][2]


def test_a_prepared_micro_batch_that_does_not_fit_is_halved_as_any_other(folder: Path) -> None:
    def fill(memory: Memory) -> Callable[[int, Any], None]:
        def at_step(step: int, budget: Any) -> None:
            del budget
            memory.most_tokens = 60 if step == 2 else 1_000_000

        return at_step

    runs = []
    for following in (nothing, next_batch):
        memory = Memory()
        runs.append(do_steps(folder, following=following, memory=memory, before=fill(memory)))
    late, ahead = runs
    assert_same(ahead, late)
    assert late.halvings > 0
    # The second, and the fourth in its smaller micro-batches; the third was begun prepared and done again.
    assert sum(ahead.prepared) == STEPS - 2


@pytest.mark.parametrize("times", [1, STEPS])
def test_no_room_to_prepare_harms_neither_the_step_that_is_done_nor_the_next(
    folder: Path, times: int
) -> None:
    late = do_steps(folder, following=nothing)
    memory = Memory(too_full_to_prepare=times)
    ahead = do_steps(folder, following=next_batch, memory=memory)
    assert_same(ahead, late)
    assert ahead.halvings == 0
    assert sum(ahead.prepared) == max(0, STEPS - 1 - times)


def test_another_batch_than_was_announced_is_the_one_that_is_trained(folder: Path) -> None:
    late = do_steps(folder, following=nothing)
    ahead = do_steps(folder, following=lambda step: BATCHES[step][:-1] + BATCHES[step][:1])
    assert_same(ahead, late)
    assert not any(ahead.prepared)


def test_the_next_rows_are_asked_for_once_a_step_and_before_its_loss_is_read(
    folder: Path,
) -> None:
    """On a CPU the weights tell: they are updated when the loss was read and is finite."""
    from finetune_trainer.model import load
    from finetune_trainer.steps.micro_batches import TokenBudget
    from finetune_trainer.training.optimizer_step import Stepper

    plan = build_plan()
    loaded = load.load(plan, folder=folder)
    stepper = Stepper(loaded, training=plan.training, budget=TokenBudget(WHOLE_STEP))
    before, then = loaded.adapter_state(), []

    def following() -> Sequence[TinyRow]:
        then.append(loaded.adapter_state())
        return BATCHES[1]

    stepper.do(BATCHES[0], step=0, supervised=100, learning_rate=1e-2, following=following)
    [then_held] = then
    assert all(then_held[name].equal(value) for name, value in before.items())
    after = loaded.adapter_state()
    assert not all(after[name].equal(value) for name, value in before.items())


def test_a_prepared_micro_batch_says_all_that_the_layers_and_the_head_read() -> None:
    from finetune_trainer.fused.device_batch import prepare
    from finetune_trainer.steps.micro_batches import MicroBatch

    texts = (TinyRow([5, 6, 7], [-100, 6, 7]), TinyRow([8], [8]), TinyRow([9, 4], [9, -100]))
    micro_batch = MicroBatch(texts, first_token=11)
    found = prepare(micro_batch, device=torch.device("cpu"))
    assert (found.sequences, found.first_token, found.longest) == (texts, 11, 3)
    tensors = (found.input_ids, found.positions, found.ends, found.scored, found.targets)
    assert [each.tolist() for each in tensors] == [
        [5, 6, 7, 8, 9, 4],
        [0, 1, 2, 0, 0, 1],
        [0, 3, 4, 6],
        [0, 1],
        [6, 7],
    ]
    assert [each.dtype for each in tensors] == [
        torch.int64,
        torch.int32,
        torch.int32,
        torch.int64,
        torch.int64,
    ]
    assert prepare(found, device=torch.device("cpu")) is found


def test_the_loop_tells_each_step_what_follows_it_and_the_last_that_nothing_does(
    folder: Path, tmp_path: Path
) -> None:
    from finetune_trainer.model import load
    from finetune_trainer.steps.eval_loss import HeldOutLoss
    from finetune_trainer.steps.micro_batches import TokenBudget
    from finetune_trainer.training.loop import Hooks, train

    plan, seen = build_plan(**OF_DROPOUT), Seen()
    loaded = load.load(plan, folder=folder)
    memory = Memory()
    train(
        replace(loaded, engine=build_engine(loaded, memory=memory, seen=seen)),
        build_rows(20),
        training=plan.training,
        held_out=2,
        budget=TokenBudget(WHOLE_STEP),
        hooks=Hooks(
            evaluate=lambda: HeldOutLoss(nats=1.0, tokens=1, bytes=1, examples=1),
            report=lambda _: None,
            is_stopping=lambda: False,
        ),
        metrics_path=tmp_path / "metrics.jsonl",
    )
    assert seen.prepared == [False, True, True]
