"""What the training loop calls while it runs, and what it needs to know of its inputs.

Between `training_stages` and `training.loop`: the loop knows steps, this module knows the pod, its
progress and its checkpoints.
"""

from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite

from finetune_api.outcome import Stage
from finetune_api.plan import TrainingPlan
from finetune_text.tokenization.stop_token import Stop
from finetune_trainer.checkpoints.saver import CheckpointSaver
from finetune_trainer.engine.choose import Chosen
from finetune_trainer.errors import BrokenOff, NotFinite, NotFound
from finetune_trainer.inputs.fetch import FetchedModel
from finetune_trainer.inputs.tokenization import TokenizedCorpus
from finetune_trainer.pod.graceful_shutdown import GracefulShutdown
from finetune_trainer.pod.pod import Pod
from finetune_trainer.pod.progress import Progress
from finetune_trainer.publish.run_record import DatasetIdentity
from finetune_trainer.ranks.process_group import ProcessGroup
from finetune_trainer.steps.eval_loss import HeldOutLoss
from finetune_trainer.steps.snapshot import Capture, Snapshot
from finetune_trainer.steps.step_report import StepReport
from finetune_trainer.training.evaluate import evaluate, evaluate_base
from finetune_trainer.training.loop import Hooks
from finetune_trainer.training.training_state import TrainingState

BASE = "base"
"""What a checkpoint calls the base model's evaluation."""
NOTHING_HELD_OUT = HeldOutLoss(nats=0.0, tokens=0, bytes=0, examples=0)


@dataclass(frozen=True)
class Prepared:
    """What is known before torch is needed."""

    plan: TrainingPlan
    base: FetchedModel
    datasets: tuple[DatasetIdentity, ...]
    corpus: TokenizedCorpus
    warnings: tuple[str, ...]
    stop: Stop


class RunCallbacks:
    """What the training loop calls: evaluation, progress, checkpoints and the end of the pod."""

    def __init__(
        self,
        prepared: Prepared,
        pod: Pod,
        progress: Progress,
        chosen: Chosen,
        checkpoints: CheckpointSaver,
        *,
        group: ProcessGroup,
        is_past_deadline: bool = False,
    ) -> None:
        self._prepared = prepared
        self._shutdown = pod.shutdown
        self._progress = progress
        self._chosen = chosen
        self._group = group
        self._checkpoints = checkpoints
        self._is_past_deadline = is_past_deadline
        self.base_evaluation = NOTHING_HELD_OUT
        """The base model's evaluation, made before the first step or read from a checkpoint."""

    def build_hooks(self) -> Hooks:
        """Return the functions that the loop calls."""
        return Hooks(
            evaluate=partial(
                measure, self._prepared, self._chosen, group=self._group, shutdown=self._shutdown
            ),
            report=self._report,
            is_stopping=self._shutdown.is_stopping,
            check=self._check_step,
            offer=self._checkpoints.offer,
            keep_last=self._keep_last,
        )

    def begin(self, state: TrainingState) -> Snapshot | None:
        """Return the checkpoint to resume from; without one, evaluate the base model, still untrained."""
        checkpoints, progress = self._checkpoints, self._progress
        snapshot = checkpoints.find_newest(state.find_mismatch)
        if snapshot is not None:
            self.base_evaluation = HeldOutLoss(**snapshot.notes[BASE])
            progress.resume(checkpoints.newest)
        elif self._is_past_deadline:
            raise NotFound(
                "The run is over its deadline and no checkpoint of it can be used, so there is nothing"
                " to publish: apply it again with a longer activeDeadlineSeconds, or with"
                " checkpoints.everySteps set lower.",
                reason="NothingToPublish",
            )
        else:
            self.base_evaluation = evaluate_base(
                self._chosen.loaded,
                self._prepared.corpus.validation,
                budget=self._chosen.budget,
                group=self._group,
            )
            check_finite(
                self.base_evaluation, whose=f"the base model {self._prepared.base.public_id}"
            )
        checkpoints.notes = {BASE: asdict(self.base_evaluation)}
        progress.enter(Stage.TRAIN)
        return snapshot

    def _report(self, report: StepReport) -> None:
        self._checkpoints.note_step(report.seconds)
        self._progress.report_step(report)

    def _check_step(self) -> None:
        shutdown = self._shutdown
        if shutdown.is_stopping() and not shutdown.has_time_besides(self._checkpoints.reserve_s):
            raise BrokenOff

    def _keep_last(self, step: int, capture: Capture) -> int | None:
        return self._checkpoints.keep_last(step, capture, within_s=self._shutdown.seconds_left())


def measure(
    prepared: Prepared, chosen: Chosen, *, group: ProcessGroup, shutdown: GracefulShutdown
) -> HeldOutLoss:
    """Return what the held-out part shows of the model as it is now.

    Raises:
        BrokenOff: The pod was asked to go; an evaluation can be done again.
    """

    def check() -> None:
        if shutdown.is_stopping():
            raise BrokenOff

    return evaluate(
        chosen.loaded,
        prepared.corpus.validation,
        budget=chosen.budget,
        group=group,
        check=check,
    )


def check_finite(measured: HeldOutLoss, *, whose: str) -> None:
    """See that a loss is a number.

    Raises:
        NotFinite: It is NaN or infinite.
    """
    if not isfinite(measured.nats):
        raise NotFinite(
            f"The loss of {whose} on the held-out part is {measured.loss}: its weights hold NaN or"
            " overflow; choose another model or a lower parameters.learningRate, and apply again;"
            " nothing was published.",
            reason="LossNotFinite",
        )
