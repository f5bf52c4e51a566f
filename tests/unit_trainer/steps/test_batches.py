"""Which rows a step is computed from, and that the next step's are at hand when it is due."""

from dataclasses import replace
from typing import Any

import pytest

from tests.unit_trainer.tiny import build_rows

pytestmark = pytest.mark.torch
batches = pytest.importorskip("finetune_trainer.steps.batches")
ROWS = build_rows(20)


def build(total_steps: int = 5) -> Any:
    return batches.Batches(ROWS, sequences_per_step=8, seed=42, total_steps=total_steps)


def test_every_row_is_in_one_batch_of_an_epoch_in_the_order_of_the_seed() -> None:
    of_run = build()
    rows = [row for step in range(3) for row in of_run.of(step).rows]
    assert rows == [ROWS[row] for step in range(3) for row in of_run.order.rows_of(step)]
    assert sorted(map(id, rows)) == sorted(map(id, ROWS))


def test_what_was_asked_for_ahead_is_the_very_batch_that_follows() -> None:
    of_run = build()
    ahead = of_run.rows_after(1)
    assert ahead is of_run.of(2).rows
    assert of_run.rows_after(1) is ahead


def test_none_follow_the_last_step() -> None:
    assert build(total_steps=3).rows_after(2) == ()
    assert len(build(total_steps=4).rows_after(2)) == 8


def test_a_batch_without_a_supervised_token_is_divided_by_one() -> None:
    silent = [replace(row, labels=[-100] * len(row.labels)) for row in ROWS]
    of_run = batches.Batches(silent, sequences_per_step=8, seed=42, total_steps=1)
    assert of_run.of(0).supervised == 1


def test_a_row_is_scored_from_its_second_token_on() -> None:
    scored = [replace(row, labels=row.input_ids) for row in ROWS]
    batch = batches.Batches(scored, sequences_per_step=8, seed=42, total_steps=1).of(0)
    assert batch.supervised == sum(len(row.input_ids) - 1 for row in batch.rows)
