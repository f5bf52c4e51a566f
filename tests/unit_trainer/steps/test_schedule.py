"""How many steps, which rows, when to evaluate, what is kept: pure, without torch."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.steps.model_selection import EarlyStopping, Selection
from finetune_trainer.steps.sampler import DataOrder
from finetune_trainer.steps.schedule import Keep, Schedule, build_schedule
from tests.unit_trainer.tiny import build_plan


def schedule_of(*, rows: int = 80, held_out: int = 10, **training: Any) -> Schedule:
    changes = {f"training__{name}": value for name, value in training.items()}
    return build_schedule(build_plan(**changes).training, rows=rows, held_out=held_out)


@given(
    rows=st.integers(1, 200),
    batch=st.integers(1, 40),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
)
def test_an_epoch_holds_each_row_once_in_full_steps_but_its_last(
    rows: int, batch: int, seed: int, epoch: int
) -> None:
    order = DataOrder(rows=rows, sequences_per_step=batch, seed=seed)
    first = epoch * order.steps_per_epoch
    steps = [order.rows_of(first + place) for place in range(order.steps_per_epoch)]
    assert sorted(row for step in steps for row in step) == list(range(rows))
    assert all(len(step) == batch for step in steps[:-1])
    assert order.epochs_after(first + order.steps_per_epoch) == epoch + 1


def test_the_order_of_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    order = DataOrder(rows=10, sequences_per_step=4, seed=42)
    assert order.rows_of(7) == DataOrder(rows=10, sequences_per_step=4, seed=42).rows_of(7)
    # Pinned: a checkpoint of today is resumed by a version of tomorrow.
    assert [order.rows_of(step) for step in range(3)] == [(7, 1, 0, 6), (9, 3, 2, 8), (5, 4)]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first = DataOrder(rows=50, sequences_per_step=50, seed=1)
    other = DataOrder(rows=50, sequences_per_step=50, seed=2)
    assert len({first.rows_of(0), first.rows_of(1), other.rows_of(0)}) == 3


@pytest.mark.parametrize(
    ("training", "rows", "steps"),
    [
        pytest.param({"num_train_epochs": 3.0}, 80, 30, id="epochs"),
        pytest.param({"num_train_epochs": 1.5}, 80, 15, id="part of an epoch"),
        pytest.param({"num_train_epochs": 0.01}, 80, 1, id="less than a step is a step"),
        pytest.param({"num_train_epochs": 3.0}, 3, 3, id="fewer rows than a batch"),
        pytest.param({"max_steps": 7, "num_train_epochs": 3.0}, 80, 7, id="steps beat epochs"),
    ],
)
def test_the_steps_of_a_run(training: dict[str, Any], rows: int, steps: int) -> None:
    assert schedule_of(rows=rows, **training).total_steps == steps


def test_a_run_shorter_than_its_warm_up_still_learns() -> None:
    schedule = schedule_of(max_steps=1, warmup_steps=10)
    assert schedule.learning_rate_factor(0) == 1.0


def test_warm_up_by_ratio_rounds_up() -> None:
    assert schedule_of(max_steps=25, warmup_ratio=0.1).warmup_steps == 3


@pytest.mark.parametrize(
    ("total", "every"),
    [(40, 100), (2000, 100), (4000, 200), (50_000, 500)],
    ids=["short", "least", "a twentieth", "most"],
)
def test_evaluations_keep_to_the_guides_range(total: int, every: int) -> None:
    assert schedule_of(max_steps=total).eval_every == every


def test_saves_without_steps_of_their_own_fall_on_evaluations() -> None:
    schedule = schedule_of(save_strategy="Steps", eval_steps=7)
    assert (schedule.eval_every, schedule.save_every) == (7, 7)


def test_the_end_is_always_evaluated() -> None:
    schedule = schedule_of(max_steps=250)
    assert [step for step in range(1, 251) if schedule.is_evaluation_due(step)] == [100, 200, 250]


def test_nothing_is_evaluated_without_a_held_out_part() -> None:
    schedule = schedule_of(held_out=0, save_strategy="Best")
    assert schedule.eval_every is None
    assert schedule.keep is Keep.LAST


@pytest.mark.parametrize(
    ("training", "keep"),
    [
        pytest.param({}, Keep.LAST, id="the guide's pair keeps the last (C19)"),
        pytest.param({"save_strategy": "Best"}, Keep.BEST_EVALUATED, id="best"),
        pytest.param({"save_strategy": "Never"}, Keep.LAST, id="never"),
        pytest.param({"eval_strategy": "Epoch"}, Keep.BEST_SAVED, id="both by epoch"),
        pytest.param({"save_strategy": "Steps"}, Keep.BEST_SAVED, id="both by the same steps"),
        pytest.param(
            {"save_strategy": "Steps", "save_steps": 20, "eval_steps": 10},
            Keep.BEST_SAVED,
            id="every save is evaluated",
        ),
        pytest.param(
            {"save_strategy": "Steps", "eval_steps": 10},
            Keep.BEST_SAVED,
            id="saves without steps of their own are those of evaluation",
        ),
        pytest.param(
            {"save_strategy": "Steps", "save_steps": 15, "eval_steps": 10},
            Keep.LAST,
            id="some saves are not evaluated",
        ),
        pytest.param(
            {"eval_strategy": "Never", "save_strategy": "Best"}, Keep.LAST, id="never evaluated"
        ),
    ],
)
def test_which_state_is_published(training: dict[str, Any], keep: Keep) -> None:
    assert schedule_of(**training).keep is keep


def test_early_stopping_counts_evaluations_in_a_row() -> None:
    stopping = EarlyStopping(patience=2)
    over = []
    for loss in (3.0, 2.0, 2.0, 1.9, 2.0, 1.9):
        stopping.observe(loss)
        over.append(stopping.is_over)
    assert over == [False, False, False, False, False, True]


def test_patience_zero_never_stops() -> None:
    stopping = EarlyStopping(patience=0)
    for _ in range(100):
        stopping.observe(1.0)
    assert not stopping.is_over


def select(
    keep: Keep, losses: Mapping[int, float | None], *, saved: set[int], last: int
) -> tuple[int, list[Any]]:
    selection = Selection(keep=keep)
    restored: list[Any] = []
    for step, loss in losses.items():
        selection.observe(
            step=step,
            eval_loss=loss,
            is_saved=step in saved,
            state=partial(dict, step=step),
        )
    return selection.restore(restored.append, last_step=last), restored


def test_the_best_evaluated_state_is_put_back() -> None:
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 2.0}
    assert select(Keep.BEST_EVALUATED, losses, saved=set(), last=4) == (2, [{"step": 2}])


def test_a_state_that_was_not_saved_is_no_candidate() -> None:
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5}
    assert select(Keep.BEST_SAVED, losses, saved={1, 3}, last=4) == (3, [{"step": 3}])


def test_the_last_state_stays_where_it_is_kept() -> None:
    assert select(Keep.LAST, {1: 1.0, 2: 2.0}, saved={1, 2}, last=2) == (2, [])
