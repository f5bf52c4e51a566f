"""How long a pod that is asked to go may still work, and that no wait outlasts it."""

import threading

import pytest

from finetune_api.outcome import Stage
from finetune_trainer.checkpoints.save_costs import Costs
from finetune_trainer.errors import Interrupted, ServiceUnavailable
from finetune_trainer.pod.graceful_shutdown import GracefulShutdown, read_grace


class Clock:
    """Stands still until a test moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def asked(grace_s: float | None = 60.0) -> tuple[GracefulShutdown, Clock]:
    clock = Clock()
    shutdown = GracefulShutdown(
        lambda: Stage.TRAIN, leave=lambda _: None, grace_s=grace_s, clock=clock
    )
    shutdown.on_sigterm(15, None)
    return shutdown, clock


def test_the_grace_period_runs_from_the_signal_with_a_reserve_for_the_last_word() -> None:
    shutdown, clock = asked()
    assert shutdown.seconds_left() == 55.0
    clock.now += 50
    assert shutdown.seconds_left() == 5.0
    clock.now += 50
    assert shutdown.seconds_left() == 0.0


def test_nobody_counts_before_the_signal_or_where_nobody_kills() -> None:
    calm = GracefulShutdown(lambda: Stage.TRAIN, leave=lambda _: None, grace_s=60.0)
    assert calm.seconds_left() is None
    assert asked(grace_s=None)[0].seconds_left() is None


@pytest.mark.parametrize(
    ("passed_s", "saving_s", "has_time"),
    [
        pytest.param(0, 20.0, True, id="plenty is left beside saving"),
        pytest.param(36, 20.0, False, id="only the time to save is left"),
        pytest.param(24, None, True, id="nothing was saved yet, half is left"),
        pytest.param(26, None, False, id="nothing was saved yet, less than half is left"),
    ],
)
def test_a_step_goes_on_while_there_is_time_to_save_after_it(
    passed_s: float, saving_s: float | None, has_time: bool
) -> None:
    shutdown, clock = asked()
    clock.now += passed_s
    assert shutdown.has_time_besides(saving_s) is has_time


def test_a_wait_for_a_service_ends_when_the_pod_is_asked_to_go() -> None:
    clock = Clock()

    def nap(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 110:
            shutdown.on_sigterm(15, None)

    shutdown = GracefulShutdown(lambda: Stage.PUBLISH, leave=lambda _: None, clock=clock, nap=nap)
    shutdown.sleep(5)
    assert clock.now == 105
    with pytest.raises(Interrupted) as caught:
        shutdown.sleep(3600)
    assert caught.value.message == (
        "The pod was asked to go in the stage Publish while it waited for a service that did not"
        " answer."
    )


def in_publishing(clock: Clock) -> GracefulShutdown:
    return GracefulShutdown(lambda: Stage.PUBLISH, leave=lambda _: None, grace_s=60.0, clock=clock)


def test_work_that_asks_nobody_for_the_time_is_finished_where_there_is_time() -> None:
    clock = Clock()
    shutdown = in_publishing(clock)
    shutdown.on_sigterm(15, None)
    clock.now += 30
    assert shutdown.finish_in_time(lambda: "published", reserve_s=20.0) == "published"


def test_work_that_would_leave_no_time_to_save_is_left_behind() -> None:
    clock, hangs = Clock(), threading.Event()
    shutdown = in_publishing(clock)

    def hang() -> None:
        shutdown.on_sigterm(15, None)
        clock.now += 36
        hangs.wait()

    with pytest.raises(Interrupted) as caught:
        shutdown.finish_in_time(hang, reserve_s=20.0)
    hangs.set()
    assert caught.value.message == (
        "The pod was asked to go, and the stage Publish was not over in its grace period."
    )


def test_what_work_raises_is_raised() -> None:
    def fail() -> None:
        raise ServiceUnavailable("The store is away.")

    with pytest.raises(ServiceUnavailable):
        in_publishing(Clock()).finish_in_time(fail, reserve_s=None)


def test_a_grace_period_that_is_too_short_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    shutdown, _ = asked()
    for needed in (60, 61, 90):
        shutdown.warn_if_short(needed)
    reported = [
        each for each in caplog.records if each.message.startswith("The pod's grace period")
    ]
    assert [each.__dict__["needed_s"] for each in reported] == [61]


def test_the_grace_period_is_the_pods() -> None:
    assert read_grace({"FINETUNE_GRACE_SECONDS": "300"}) == 300.0
    assert read_grace({}) is None


def test_the_next_pod_needs_a_step_and_a_checkpoint_as_they_were_measured() -> None:
    assert Costs(longest_step=4.0, longest_save=10.0).grace_needed == 36
