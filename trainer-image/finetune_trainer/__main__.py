"""The entry point: one plan, one outcome, whatever happens.

Without arguments it trains; `measure` measures instead, `probe` only looks for finished work, and
`publish` publishes what the newest checkpoint holds. `worker` is a rank but the first: the launcher of
rank 0 starts it.

Sets up the log, the signal and the progress, runs the pipeline and writes the outcome to the
termination message. The only place that catches everything: what escapes here is a bug of ours, and
even then the operator must get a message.
"""

import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api import wire
from finetune_api.measure_plan import MeasurePlan
from finetune_api.outcome import Outcome, Stage, cut_message
from finetune_api.plan import TrainingPlan
from finetune_trainer.pod import logs
from finetune_trainer.errors import PlanInvalid, TrainerError
from finetune_trainer.ranks.launcher import WORKER_COMMAND
from finetune_trainer.pod.graceful_shutdown import GracefulShutdown, read_grace
from finetune_trainer.tasks.pipeline import run
from finetune_trainer.inputs.plan import load_measure_plan, load_plan
from finetune_trainer.pod.pod import Pod
from finetune_trainer.pod.progress import Progress, Pusher, find_server

TRAINING_COMMANDS = (wire.PROBE_COMMAND, wire.PUBLISH_COMMAND, WORKER_COMMAND)
"""Arguments beside none whose plan is a training plan."""

log = logging.getLogger("finetune_trainer")


def main() -> int:
    """Run what the arguments say; return its exit code."""
    environ = os.environ
    logs.configure(sys.stdout)
    server = find_server(environ)
    progress = Progress(Pusher(server.send) if server else None)
    plan_hash = ""

    def leave(asked: TrainerError) -> None:
        # NB: no exception, because libraries swallow those and a thread pool first waits for its
        # downloads, which may take longer than the pod is given.
        write_outcome(
            _build_failure(
                asked.exit_code,
                asked.reason,
                asked.message,
                stage=progress.stage,
                plan_hash=plan_hash,
            ),
            environ,
        )
        os._exit(asked.exit_code)

    shutdown = GracefulShutdown(lambda: progress.stage, leave=leave, grace_s=read_grace(environ))
    signal.signal(signal.SIGTERM, shutdown.on_sigterm)

    def work() -> Outcome:
        nonlocal plan_hash
        pod = Pod(environ, Path(environ.get(wire.ENV_WORK_DIR, wire.WORK_DIR)), shutdown)
        task = decide_task(sys.argv[1:], environ=environ)
        plan_hash = task.plan.hash
        return task.run(pod, progress)

    outcome = conclude(work, stage=lambda: progress.stage, plan_hash=lambda: plan_hash)
    fields = {
        "checkpoint": progress.checkpoint,
        "grace_seconds_needed": progress.grace_seconds_needed,
    }
    outcome = outcome.model_copy(update=fields)
    # The outcome stands: a signal from here on must not replace it by another.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if outcome.exit_code == wire.ExitCode.DONE:
        progress.finish()
    write_outcome(outcome, environ)
    progress.close(is_hurried=shutdown.is_stopping())
    return outcome.exit_code


@dataclass(frozen=True)
class Task:
    """What this pod is to do."""

    plan: TrainingPlan | MeasurePlan
    run: Callable[[Pod, Progress], Outcome]


def decide_task(arguments: Sequence[str], *, environ: Mapping[str, str]) -> Task:
    """Read the plan that the arguments ask for: to train where there are none.

    Raises:
        PlanInvalid: There is no such command, or no such plan.
    """
    expected = environ.get(wire.ENV_PLAN_SHA256, "")
    named = environ.get(wire.ENV_PLAN_PATH, "")
    if tuple(arguments) == wire.MEASURE_COMMAND:
        from finetune_trainer.tasks.measure import measure

        to_measure = load_measure_plan(Path(named or wire.MEASURE_PATH), expected_sha256=expected)
        return Task(
            to_measure, lambda pod, progress: measure(to_measure, pod=pod, progress=progress)
        )
    if arguments and tuple(arguments) not in TRAINING_COMMANDS:
        raise PlanInvalid(
            f"The trainer knows no command {' '.join(arguments)!r}: expected none, to train,"
            f" {wire.MEASURE_COMMAND[0]!r}, {wire.PROBE_COMMAND[0]!r} or {wire.PUBLISH_COMMAND[0]!r}; operator and trainer must be of one release.",
            reason="CommandUnknown",
        )
    to_train = load_plan(Path(named or wire.PLAN_PATH), expected_sha256=expected)
    if tuple(arguments) == WORKER_COMMAND:
        from finetune_trainer.tasks.worker import run_worker

        return Task(to_train, lambda pod, _: run_worker(to_train, pod=pod))
    if tuple(arguments) == wire.PROBE_COMMAND:
        from finetune_trainer.tasks.check_published import probe

        return Task(to_train, lambda pod, _: probe(to_train, pod=pod))
    is_past = tuple(arguments) == wire.PUBLISH_COMMAND
    if is_past and not environ.get(wire.ENV_DEADLINE_SECONDS):
        raise PlanInvalid(
            f"The command {wire.PUBLISH_COMMAND[0]!r} is about a run that its deadline ended, and"
            f" {wire.ENV_DEADLINE_SECONDS} does not say which; operator and trainer must be of one release.",
            reason="DeadlineUnknown",
        )
    return Task(
        to_train,
        lambda pod, progress: run(to_train, pod=pod, progress=progress, is_past_deadline=is_past),
    )


def conclude(
    work: Callable[[], Outcome], *, stage: Callable[[], Stage], plan_hash: Callable[[], str]
) -> Outcome:
    """Do the work; return its outcome, or the one that says why there is none."""
    try:
        outcome = work()
    except TrainerError as error:
        log.warning("The run ended", extra={"reason": error.reason, "why": error.message})
        outcome = _build_failure(
            error.exit_code, error.reason, error.message, stage=stage(), plan_hash=plan_hash()
        )
    except Exception as fault:
        log.exception("The run ended unexpectedly")
        code, reason, message = diagnose(fault)
        outcome = _build_failure(code, reason, message, stage=stage(), plan_hash=plan_hash())
    else:
        log.info("The run is done", extra={"reason": outcome.reason, "why": outcome.message})
    return outcome


def diagnose(fault: Exception) -> tuple[wire.ExitCode, str, str]:
    """Return exit code, reason and one sentence for what no stage expected: a full disk, or a bug."""
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        message = (
            f"The scratch volume is full ({fault.filename or 'unnamed file'}): raise the pod's"
            " ephemeral-storage in resources.limits and apply again."
        )
        return wire.ExitCode.ENVIRONMENT_UNFIT, "DiskFull", message
    last = traceback.extract_tb(fault.__traceback__)[-1]
    text = f"{type(fault).__name__}: {fault}"[:300]
    message = (
        f"The trainer met a fault it does not know: {text} ({Path(last.filename).name}:{last.lineno}"
        f" in {last.name}). The log holds the traceback; please report it."
    )
    return wire.ExitCode.BUG, "Bug", message


def write_outcome(outcome: Outcome, environ: Mapping[str, str]) -> None:
    """Write the termination message; where that cannot be done the log has it too."""
    text = outcome.to_termination_message()
    path = Path(environ.get(wire.ENV_TERMINATION_PATH, wire.TERMINATION_PATH))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as fault:
        log.warning(
            "The outcome could not be written", extra={"fault": str(fault), "outcome": text}
        )


def _build_failure(
    code: wire.ExitCode, reason: str, message: str, *, stage: Stage, plan_hash: str
) -> Outcome:
    # Names of files and columns may hold half a character, which no JSON does.
    printable = message.encode("utf-8", "backslashreplace").decode("utf-8")
    return Outcome(
        exit_code=code,
        reason=reason,
        stage=stage,
        message=cut_message(printable),
        plan_hash=plan_hash,
    )


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # NB: no `sys.exit`, which waits for the threads of an upload that hangs until the pod is killed.
    os._exit(code)
