"""Progress, reported to the operator's status server while the run goes on.

Beside the pipeline, which enters stages and hands over steps. A thread of its own sends the newest
report and nothing older; a server that is slow, gone or wrong is logged once and never
slows or fails the training. The outcome in the termination message is the truth; this is only news.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import requests

from finetune_api import progress as names
from finetune_api import wire
from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.outcome import Stage
from finetune_api.progress import Metric, ProgressReport, TrainerStatus
from finetune_trainer.steps.step_report import StepReport

TIMEOUT_S = 5.0
"""Longest wait for the server, as Kubeflow's own callback has it."""
CLOSING_S = TIMEOUT_S + 1
"""Longest wait for the last report, and the one before it that may be under way."""
HURRIED_S = 2.0
"""The same where the pod must go: shorter than what is reserved for the outcome."""
INTERVAL_S = 2.0
"""Between two reports of one stage: a person sees no more, and a thousand pods make 500 a second."""
SMOOTHING = 0.2
"""Weight of the newest step in the smoothed time of one: about the last five count (assumption)."""
SHARES: Mapping[Stage, int] = {
    Stage.START: 0,
    Stage.FETCH: 1,
    Stage.VALIDATE: 4,
    Stage.TOKENIZE: 5,
    Stage.MODEL: 7,
    Stage.TRAIN: 10,
    Stage.EVALUATE: 92,
    Stage.EXPORT: 96,
    Stage.PUBLISH: 97,
    Stage.MEASURE: 40,
}
"""Percent of the whole run behind us when a stage begins (assumption: training is most of it)."""

log = logging.getLogger(__name__)
Send = Callable[[ProgressReport], None]


@dataclass(frozen=True)
class StatusServerClient:
    """Where progress goes, by the names of Kubeflow Trainer's protocol."""

    url: str
    ca_path: Path | None = None
    """Authority of the server's certificate; None trusts the system's."""
    token_path: Path | None = None

    def send(self, report: ProgressReport) -> None:
        """POST one report.

        Raises:
            requests.RequestException: The server cannot be reached or refuses.
            OSError: The token cannot be read.
            ValueError: The token is none that a request can carry.
        """
        headers = {"Content-Type": "application/json"}
        if self.token_path is not None:
            # Read each time: the kubelet replaces the token long before it expires.
            token = self.token_path.read_text(encoding="utf-8").strip()
            headers["Authorization"] = f"Bearer {token}"
        with requests.Session() as session:
            # No proxy and no .netrc of the pod: the server is in the cluster, the token is for it.
            session.trust_env = False
            answer = session.post(
                self.url,
                data=report.model_dump_json(by_alias=True, exclude_none=True),
                headers=headers,
                timeout=TIMEOUT_S,
                verify=str(self.ca_path) if self.ca_path else True,
                allow_redirects=False,
            )
            answer.raise_for_status()


def find_server(environ: Mapping[str, str]) -> StatusServerClient | None:
    """Return the status server that the environment names, or None where there is none."""
    url = environ.get(wire.ENV_SERVER_URL, "")
    if not url:
        return None
    ca, token = environ.get(wire.ENV_SERVER_CA, ""), environ.get(wire.ENV_SERVER_TOKEN, "")
    return StatusServerClient(url, Path(ca) if ca else None, Path(token) if token else None)


class Pusher:
    """Sends the newest report from a thread of its own."""

    def __init__(self, send: Send, *, interval_s: float = INTERVAL_S) -> None:
        self._send = send
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._newest: ProgressReport | None = None
        self._is_urgent = False
        self._is_closed = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def submit(self, report: ProgressReport, *, urgent: bool) -> None:
        """Replace the report that waits; an urgent one does not wait for the interval."""
        with self._changed:
            self._newest = report
            self._is_urgent = self._is_urgent or urgent
            self._changed.notify()

    def close(self, *, within_s: float = CLOSING_S) -> None:
        """Send what still waits and stop; waits no longer than `within_s` seconds."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(within_s)

    def _run(self) -> None:
        sent_at = -self._interval_s
        while (report := self._take(not_before=sent_at + self._interval_s)) is not None:
            sent_at = time.monotonic()
            try:
                self._send(report)
            except (requests.RequestException, OSError, ValueError) as fault:
                self._tell(fault)
            else:
                self._is_failing = False

    def _take(self, *, not_before: float) -> ProgressReport | None:
        """Wait for a report whose time has come; None when closed and nothing is left."""
        with self._changed:
            while not self._is_closed:
                early = not_before - time.monotonic()
                if self._newest is not None and (self._is_urgent or early <= 0):
                    break
                self._changed.wait(early if self._newest is not None else None)
            report, self._newest, self._is_urgent = self._newest, None, False
            return report

    def _tell(self, fault: Exception) -> None:
        if not self._is_failing:
            # The type alone: a message of requests may hold the URL, and the token never a place.
            log.warning(
                "Progress could not be sent; training goes on",
                extra={"fault": type(fault).__name__},
            )
        self._is_failing = True


class Progress:
    """Where the run is: enters stages, hears of steps, and tells the log and the server."""

    def __init__(
        self, pusher: Pusher | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pusher = pusher
        self._clock = clock
        self._percent = 0
        self._metrics: dict[str, str] = {}
        self._step_s: float | None = None
        self._speed: float | None = None
        self._last_step_at: float | None = None
        self._logged_at = self._entered_at = clock()
        self.checkpoint: SavedCheckpoint | None = None
        """The newest checkpoint in S3; part of every report."""
        self.grace_seconds_needed: int | None = None
        """What the next pod needs from SIGTERM on."""
        self.stage = Stage.START
        """The stage that runs; the one to blame when it ends badly."""

    def enter(self, stage: Stage) -> None:
        """Begin a stage."""
        now = self._clock()
        log.info(
            "Stage begins",
            extra={"stage": stage.value, "previous_stage_s": round(now - self._entered_at, 3)},
        )
        self.stage, self._entered_at, self._last_step_at = stage, now, now
        self._metrics[names.STAGE] = stage.value
        self._push(percent=SHARES[stage], remaining_s=None, urgent=True)

    def resume(self, checkpoint: SavedCheckpoint | None) -> None:
        """Tell that the run goes on from a checkpoint."""
        self.checkpoint = checkpoint

    def report_checkpoint(self, checkpoint: SavedCheckpoint, grace_seconds_needed: int) -> None:
        """Tell of a checkpoint that stands in S3, with the next report; callable from any thread."""
        self.checkpoint, self.grace_seconds_needed = checkpoint, grace_seconds_needed

    def report_step(self, report: StepReport) -> None:
        """Tell of one optimizer step."""
        now = self._clock()
        elapsed = now - (self._last_step_at if self._last_step_at is not None else now)
        self._last_step_at = now
        self._step_s = smooth(self._step_s, elapsed)
        self._speed = smooth(self._speed, report.tokens / max(report.seconds, 1e-9))
        self._metrics |= _metrics_of(report, speed=self._speed)
        self._log_step(report, now=now)
        first, last = SHARES[Stage.TRAIN], SHARES[Stage.EVALUATE]
        share = report.step / report.total_steps
        self._push(
            percent=int(first + (last - first) * share),
            remaining_s=round(self._step_s * (report.total_steps - report.step)),
            urgent=report.step == 1,
        )

    def finish(self) -> None:
        """Tell that everything is done: 100 percent is said only here."""
        self._push(percent=100, remaining_s=0, urgent=True)

    def close(self, *, is_hurried: bool = False) -> None:
        """Send what still waits; where the pod is killed soon, only a server that answers hears it."""
        if self._pusher is not None:
            self._pusher.close(within_s=HURRIED_S if is_hurried else CLOSING_S)

    def _log_step(self, report: StepReport, *, now: float) -> None:
        """Log the first, the last, each evaluated one, and in between no more than people read."""
        is_marked = report.step in (1, report.total_steps) or report.eval_loss is not None
        if is_marked or now - self._logged_at >= INTERVAL_S:
            self._logged_at = now
            log.info("Step done", extra=report.to_fields())

    def _push(self, *, percent: int, remaining_s: int | None, urgent: bool) -> None:
        self._percent = max(self._percent, percent)
        if self._pusher is None:
            return
        status = TrainerStatus(
            progress_percentage=self._percent,
            estimated_remaining_seconds=remaining_s,
            metrics=tuple(Metric(name=name, value=value) for name, value in self._metrics.items()),
            last_updated_time=datetime.now(UTC).isoformat(timespec="seconds"),
            checkpoint=self.checkpoint,
            grace_seconds_needed=self.grace_seconds_needed,
        )
        self._pusher.submit(ProgressReport(trainer_status=status), urgent=urgent)


def smooth(before: float | None, newest: float) -> float:
    """Return the exponentially smoothed value."""
    return newest if before is None else before + SMOOTHING * (newest - before)


def _metrics_of(report: StepReport, *, speed: float) -> dict[str, str]:
    metrics = {
        names.STEP: str(report.step),
        names.TOTAL_STEPS: str(report.total_steps),
        names.EPOCH: f"{report.epoch:.2f}",
        names.LOSS: f"{report.loss:.4f}",
        names.TOKENS_PER_SECOND: f"{speed:.0f}",
    }
    if report.eval_loss is not None:
        metrics[names.EVAL_LOSS] = f"{report.eval_loss:.4f}"
    return metrics
