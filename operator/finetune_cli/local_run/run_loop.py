"""A run on this machine from its beginning to its end: observe, decide, apply, wait.

The loop of the operator's reconciler for one resource: `finetune_operator.decide` says what to do, the
machine does it, and the status is saved. A signal sets `spec.suspend`, as a person does in a cluster: the
trainer saves a checkpoint and ends, and the next command goes on there.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import Any

from finetune_api import wire
from finetune_api.status import ProgressStatus
from finetune_cli.local_run.machine import Machine
from finetune_cli.local_run.progress_receiver import ProgressReceiver
from finetune_cli.local_run.state_folder import StateFolder
from finetune_operator.decide.decide import decide
from finetune_operator.decide.status.build_status import find_condition, parse_status
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, Lookups
from finetune_operator.decide.values.observation import Observed
from finetune_operator.decide.values.operator_config import DecisionContext

TICK_S = 0.2
"""Seconds between two looks at the trainer."""
SAVE_PROGRESS_S = 2.0
"""Seconds between two times that progress alone is saved."""


class RunEnd(IntEnum):
    """How a command ended; the value is its exit code."""

    COMPLETE = 0
    FAILED = 1
    REFUSED = 2
    """The resource cannot run as it is."""
    INTERRUPTED = 130
    """Stopped by a signal; the same command goes on."""


@dataclass
class Interruption:
    """What a person asked for by signals."""

    is_asked: bool = False
    """The first signal: save a checkpoint and end."""
    is_urgent: bool = False
    """The second signal: end now."""


class LocalRun:
    """One resource that runs on this machine.

    Args:
        body: The resource with its status; changed as the run goes on.
        state: Where it is saved.
        machine: Starts and stops trainers.
        receiver: Gives the trainer's progress.
        plans: Name of a ConfigMap to its data; the machine reads it.
        context: What an administrator decides in a cluster.
        now: Returns the present time.
    """

    def __init__(
        self,
        body: dict[str, Any],
        *,
        state: StateFolder,
        machine: Machine,
        receiver: ProgressReceiver,
        plans: dict[str, Mapping[str, str]],
        context: DecisionContext,
        now: Callable[[], datetime],
    ) -> None:
        self.body = body
        self._state = state
        self._machine = machine
        self._receiver = receiver
        self._plans = plans
        self._context = context
        self._now = now
        self._saved_at = 0.0

    def run(
        self,
        *,
        interruption: Interruption,
        show: Callable[[Mapping[str, Any], ProgressStatus | None], None],
    ) -> RunEnd:
        """Bring the resource to its end.

        `show` is called at each look, with the resource and the newest report of its trainer.
        """
        while True:
            if interruption.is_asked:
                self.body["spec"]["suspend"] = True
            self._machine.advance()
            self._note_progress()
            self.reconcile()
            show(self.body, self._newest())
            end = self._find_end(interruption)
            if end is not None:
                break
            time.sleep(TICK_S)
        if interruption.is_urgent:
            self._machine.kill()
        self.body["spec"].pop("suspend", None)
        self._state.save(self.body)
        return end

    def reconcile(self) -> None:
        """Decide once and do what was decided."""
        observed = self._observe()
        actions = decide(observed, now=self._now(), context=self._context)
        while actions.lookups is not None:
            observed = self._fetch(observed, lookups=actions.lookups)
            actions = decide(observed, now=self._now(), context=self._context)
        self._apply(actions)

    def _observe(self) -> Observed:
        jobs, pods = self._machine.observe()
        return Observed(body=self.body, jobs=jobs, pods=pods)

    def _fetch(self, observed: Observed, *, lookups: Lookups) -> Observed:
        if lookups.pinned_plan:
            observed = replace(observed, pinned_plan=self._state.load_plan(lookups.pinned_plan))
        # No scheduler and no quota write events about a process.
        return replace(observed, job_events=())

    def _apply(self, actions: Actions) -> None:
        for manifest in actions.creates:
            if manifest["kind"] == "ConfigMap":
                name, data = manifest["metadata"]["name"], dict(manifest["data"])
                self._plans[name] = data
                self._state.save_plan(name, data.get(wire.PLAN_FILE, ""))
            else:
                self._machine.create(manifest)
        if actions.progress is not None:
            self.body["status"] = {**self.body.get("status", {}), "progress": actions.progress}
        if actions.status is not None:
            progress = self.body.get("status", {}).get("progress")
            self.body["status"] = actions.status | ({"progress": progress} if progress else {})
        if actions.status is not None or actions.progress is not None:
            self._state.save(self.body)
        for patch in actions.patches:
            self._machine.patch(patch)
        for delete in actions.deletes:
            self._machine.delete(delete)

    def _note_progress(self) -> None:
        status = self.body.setdefault("status", {})
        newest = self._newest()
        if newest is None or not is_further(newest, status.get("progress")):
            return
        status["progress"] = newest.model_dump(by_alias=True, exclude_none=True, mode="json")
        if time.monotonic() - self._saved_at >= SAVE_PROGRESS_S:
            self._saved_at = time.monotonic()
            self._state.save(self.body)

    def _newest(self) -> ProgressStatus | None:
        return self._receiver.newest(int(self.body.get("status", {}).get("run") or 1))

    def _find_end(self, interruption: Interruption) -> RunEnd | None:
        if interruption.is_urgent:
            return RunEnd.INTERRUPTED
        if self._machine.is_busy:
            return None
        return find_end(self.body, is_asked_to_stop=interruption.is_asked)


def find_end(body: Mapping[str, Any], *, is_asked_to_stop: bool) -> RunEnd | None:
    """Return how a resource without a trainer at work ended, or None where it goes on."""
    status = parse_status(body.get("status"))
    is_current = status.observed_generation == body["metadata"]["generation"]

    def is_true(kind: str) -> bool:
        found = find_condition(status.conditions, kind)
        return is_current and found is not None and found.status == "True"

    if is_true(conditions.COMPLETE):
        return RunEnd.COMPLETE
    if is_true(conditions.FAILED):
        return RunEnd.FAILED
    if is_true(conditions.STALLED):
        return RunEnd.REFUSED
    is_stopped = is_asked_to_stop and is_true(conditions.SUSPENDED)
    return RunEnd.INTERRUPTED if is_stopped else None


def is_further(newest: ProgressStatus, shown: Mapping[str, Any] | None) -> bool:
    """Return whether a report is further than what status shows; a resumed trainer counts from 0."""
    if not shown or shown.get("run") != newest.run:
        return True
    return (newest.percent or 0) >= (shown.get("percent") or 0)
