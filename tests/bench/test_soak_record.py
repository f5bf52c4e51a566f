"""The verdict of a soak: who ran beside whom, what was done again, what must not be."""

from typing import Any

from tests.bench.soak_record import (
    PodStory,
    RunVerdict,
    Sightings,
    build_table,
    count_lost,
    find_failures,
    read_story,
)


def event(kind: str, pod: str, *, resource: str = "sw", state: str = "running") -> dict[str, Any]:
    return {
        "type": kind,
        "object": {
            "metadata": {
                "name": pod,
                "namespace": "soak",
                "uid": f"uid-{pod}",
                "annotations": {"langops.dev/finetune": resource},
            },
            "status": {"containerStatuses": [{"state": {state: {}}}]},
        },
    }


def test_pods_of_one_resource_that_overlap_are_counted():
    seen = Sightings()
    assert seen.see(event("ADDED", "a")) == ("soak", "a", "uid-a")
    assert seen.see(event("MODIFIED", "a")) is None
    seen.see(event("MODIFIED", "a", state="terminated"))
    seen.see(event("ADDED", "b"))
    seen.see(event("ADDED", "other", resource="hi"))
    assert seen.most == {"sw": 1, "hi": 1}
    seen.see(event("ADDED", "c"))
    seen.see(event("DELETED", "b"))
    assert (seen.most["sw"], seen.pods["sw"]) == (2, ["a", "b", "c"])


def test_a_pods_log_tells_where_it_began_and_how_far_it_came():
    lines = [
        "2026-11-25T07:00:00Z stderr F Loading weights",
        '2026-11-25T07:00:01Z stdout F {"message": "The training goes on from a checkpoint", "step": 20}',
        '2026-11-25T07:00:02Z stdout F {"message": "Step done", "step": 24}',
        '2026-11-25T07:00:03Z stdout F {"message": "Step done", "st',
    ]
    assert read_story(lines) == PodStory(resumed_at=20, reached=24)


def test_steps_that_a_successor_did_again_are_lost():
    assert count_lost([PodStory(0, 17), PodStory(10, 40), PodStory(40, 60)]) == 7
    assert count_lost([PodStory(0, 60)]) == 0


def test_what_must_not_be_is_told_by_name():
    runs = [
        RunVerdict("good", "Complete", pods=2, most_at_once=1, steps_lost=3, is_equal=True),
        RunVerdict("bad", "Failed", pods=9, most_at_once=2, steps_lost=30, is_equal=False),
        RunVerdict("other", "Complete", pods=1, most_at_once=1, steps_lost=0, is_equal=False),
    ]
    assert find_failures(runs, most_lost=10) == [
        "bad ended Failed",
        "bad had 2 pods at once",
        "bad lost 30 steps, allowed 10",
        "other has other weights than the calm run",
    ]
    table = build_table(runs, kills={"s3": 4}, seconds=90, every_steps=5)
    assert "| most steps done again (a checkpoint every 5) | 30 |" in table
    assert "| kills: s3 | 4 |" in table
