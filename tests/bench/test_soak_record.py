"""The verdict of a soak: who ran beside whom, what was done again, what must not be."""

from datetime import UTC, datetime
from typing import Any

from tests.bench.soak_record import (
    Away,
    Loss,
    PodStory,
    RunVerdict,
    Sightings,
    build_table,
    find_failures,
    list_losses,
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


def line(message: str, *, second: int, step: int) -> str:
    time = f"2026-11-25T07:00:{second:02}+00:00"
    return f'x stdout F {{"time": "{time}", "message": "{message}", "step": {step}}}'


GOES_ON, STEP, WHOLE = (
    "The training goes on from a checkpoint",
    "Step done",
    "A checkpoint is whole",
)


def at(second: int) -> datetime:
    return datetime(2026, 11, 25, 7, 0, second, tzinfo=UTC)


def test_a_pods_log_tells_where_it_began_how_far_it_came_and_what_is_safe():
    lines = [
        "2026-11-25T07:00:00Z stderr F Loading weights",
        line(GOES_ON, second=1, step=20),
        line(STEP, second=2, step=24),
        line(WHOLE, second=3, step=30),
        line(STEP, second=4, step=37),
        '2026-11-25T07:00:05Z stdout F {"message": "Step done", "st',
    ]
    assert read_story(lines) == PodStory(
        resumed_at=20, reached=37, whole=30, safe_until=at(3), last_word=at(4)
    )


def test_steps_that_a_successor_did_again_are_lost_and_pods_that_never_trained_lose_none():
    stories = [PodStory(0, 17), PodStory(0, 0), PodStory(10, 40), PodStory(40, 60), PodStory(0, 0)]
    assert [loss.steps for loss in list_losses(stories, outages=[])] == [7, 0]


def test_what_was_done_while_the_store_was_away_is_counted_apart():
    killed = PodStory(0, 17, whole=10, safe_until=at(10), last_word=at(20))
    stories = [killed, PodStory(10, 30)]
    for away, expected in (((15, 30), True), ((1, 9), False), ((21, 30), False)):
        outages = [Away(*map(at, away))]
        [loss] = list_losses(stories, outages=outages)
        assert loss.is_without_store is expected


def test_an_older_checkpoint_than_the_newest_whole_one_is_a_set_back():
    stories = [PodStory(0, 25, whole=20), PodStory(20, 22), PodStory(10, 30)]
    assert [loss.is_set_back for loss in list_losses(stories, outages=[])] == [False, True]


def verdict(name: str, ended: str, *losses: Loss, most: int = 1, is_equal: bool) -> RunVerdict:
    return RunVerdict(name, ended, pods=2, most_at_once=most, losses=losses, is_equal=is_equal)


def test_what_must_not_be_is_told_by_name():
    small, large = Loss(3, False, False), Loss(30, False, True)
    runs = [
        verdict("good", "Complete", small, Loss(40, True, False), is_equal=True),
        verdict("bad", "Failed", large, most=2, is_equal=False),
        verdict("other", "Complete", is_equal=False),
    ]
    assert find_failures(runs, most_lost=10) == [
        "bad ended Failed",
        "bad had 2 pods at once",
        "bad lost 30 steps, allowed 10",
        "bad went on from an older checkpoint than its newest whole one",
        "other has other weights than the calm run",
    ]
    table = build_table(runs, kills={"s3": 4}, seconds=90, every_steps=5)
    assert "| most steps done again (a checkpoint every 5) | 30 |" in table
    assert "| the same where S3 was away | 40 |" in table
    assert "| kills: s3 | 4 |" in table
