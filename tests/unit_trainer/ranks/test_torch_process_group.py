"""What two ranks do together: the sums of one, whatever goes wrong in the other."""

from typing import Any

import pytest

from tests.unit_trainer.tiny import build_rows

pytestmark = pytest.mark.torch
sharding = pytest.importorskip("finetune_trainer.steps.sharding")
WHO = ("rank 0", "rank 1", "one rank alone")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    from tests.unit_trainer.fused.one_matrix import run_pair

    return dict(zip(WHO, run_pair(tmp_path_factory.mktemp("pair")), strict=True))


def of(seen: dict[str, dict[str, Any]], scenario: str) -> list[Any]:
    return [seen[who][scenario] for who in WHO]


@pytest.mark.parametrize("scenario", ["odd", "one row"])
def test_steps_of_two_are_the_steps_of_one(seen: dict[str, Any], scenario: str) -> None:
    first, second, alone = of(seen, scenario)
    assert first["matrix"] == second["matrix"]
    assert first["matrix"] == pytest.approx(alone["matrix"], abs=1e-5)
    assert len(alone["steps"]) == 4
    for ours, theirs in zip(first["steps"], alone["steps"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_each_prepares_its_own_shard_of_the_step_that_follows(seen: dict[str, Any]) -> None:
    for who in WHO:
        found = seen[who]["odd"]
        assert len(found["micro_batches"]) == 4
        # The first step has none before it, and none follows the last.
        assert found["prepared"] == found["micro_batches"][1:]


def test_a_row_alone_is_computed_once(seen: dict[str, Any]) -> None:
    first, second, alone = of(seen, "one row")
    assert first["micro_batches"] == alone["micro_batches"]
    assert second["micro_batches"] == []


def test_a_loss_that_is_not_finite_in_one_ends_both_with_the_weights_before_it(
    seen: dict[str, Any],
) -> None:
    first, second, _ = of(seen, "not finite")
    assert first["fault"] == second["fault"] == "loss is nan"
    assert first["steps"] == second["steps"] == []
    assert first["matrix"] == second["matrix"]
    assert all(value == value for value in first["matrix"])


def test_memory_that_runs_out_in_one_is_remembered_by_both_and_changes_nothing(
    seen: dict[str, Any],
) -> None:
    first, second, alone = of(seen, "memory")
    assert first["matrix"] == second["matrix"]
    assert first["matrix"] == pytest.approx(alone["matrix"], abs=1e-5)
    assert first["budget"] == second["budget"]
    tokens, halvings = first["budget"]
    assert halvings > 0
    assert max(second["micro_batches"]) <= 60
    # Once it is agreed on, the first splits its share as well.
    assert max(first["micro_batches"][1:]) <= tokens


def test_an_evaluation_of_two_is_that_of_one(seen: dict[str, Any]) -> None:
    first, second, alone = of(seen, "held out")
    assert first == second
    assert first == pytest.approx(alone, rel=1e-6)


def test_numbers_and_weights_become_the_same_everywhere(seen: dict[str, Any]) -> None:
    assert of(seen, "smallest") == [4, 4, 5]
    assert seen[WHO[0]]["drawn"] == seen[WHO[1]]["drawn"]


# --- Shares -------------------------------------------------------------------------------------


def test_shares_hold_every_sequence_once_and_like_many_tokens() -> None:
    rows = build_rows(33)
    shares = sharding.shard_by_tokens(rows, world_size=4)
    assert sorted(map(id, rows)) == sorted(id(row) for share in shares for row in share)
    tokens = [sum(len(row.input_ids) for row in share) for share in shares]
    assert max(tokens) - min(tokens) <= min(len(row.input_ids) for row in rows)
    assert max(tokens) == sharding.count_largest_shard(
        [len(row.input_ids) for row in rows], world_size=4
    )


def test_with_fewer_sequences_than_ranks_some_have_nothing() -> None:
    shares = sharding.shard_by_tokens(build_rows(2), world_size=3)
    assert [len(share) for share in shares] == [1, 1, 0]


def test_one_part_is_the_whole_step() -> None:
    assert sharding.count_largest_shard([3, 5, 9], world_size=1) == 17
