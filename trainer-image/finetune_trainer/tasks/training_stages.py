"""The half of a run that needs torch: model, training, evaluation and export, with its checkpoints.

Between `pipeline`, which prepares the text before torch is loaded and publishes afterwards, and the
stages, none of which knows another. Whatever ends a run from the first step on leaves something to go
on from.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from pathlib import Path

from finetune_api import wire
from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.outcome import Evaluation, Stage
from finetune_api.plan import TrainingPlan
from finetune_text.stop_token import Stop
from finetune_trainer.checkpoints.files import Origin
from finetune_trainer.checkpoints.places import CheckpointPlaces
from finetune_trainer.checkpoints.saver import Checkpoints
from finetune_trainer.engine.choose import Chosen, choose
from finetune_trainer.errors import (
    BrokenOff,
    Interrupted,
    NotFinite,
    NotFound,
    OutputUnwritable,
    ServiceUnavailable,
)
from finetune_trainer.inputs.fetch import FetchedModel
from finetune_trainer.inputs.tokenization import TokenizedCorpus

# Unsloth before everything that imports transformers.
from finetune_trainer.pod import environment
from finetune_trainer.pod.graceful_shutdown import Goodbye
from finetune_trainer.pod.pod import Pod
from finetune_trainer.pod.progress import Progress
from finetune_trainer.publish.export import export
from finetune_trainer.publish.run_record import DatasetIdentity, RunAccount
from finetune_trainer.publish.run_summary import build_summary
from finetune_trainer.ranks.launcher import Workers
from finetune_trainer.ranks.process_group import ProcessGroup
from finetune_trainer.steps.eval_loss import HeldOutLoss
from finetune_trainer.steps.snapshot import Capture, Snapshot
from finetune_trainer.steps.step_report import METRICS_FILE, StepReport
from finetune_trainer.storage.object_store import ObjectStore
from finetune_trainer.storage.s3_location import S3Location
from finetune_trainer.tasks import rank_zero
from finetune_trainer.training.evaluate import evaluate, evaluate_base
from finetune_trainer.training.loop import Hooks, TrainResult, train
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


@dataclass(frozen=True)
class Trained:
    """A trained model and how it came about."""

    prepared: Prepared
    chosen: Chosen
    group: ProcessGroup
    before: HeldOutLoss
    result: TrainResult
    checkpoints: Checkpoints
    folder: Path
    """What is published; metrics.jsonl is in it."""

    @property
    def reserve_s(self) -> float | None:
        """Seconds that saving takes where the pod must go before this is published."""
        return self.checkpoints.reserve_for(self.result.last.step)


def build_checkpoints(
    prepared: Prepared, pod: Pod, *, store: ObjectStore, output: S3Location, progress: Progress
) -> Checkpoints:
    """Return what saves this run."""
    plan = prepared.plan
    origin = Origin(
        plan_hash=plan.hash,
        namespace=plan.identity.namespace,
        name=plan.identity.name,
        model_revision=prepared.base.revision,
        datasets=tuple(each.sha256 for each in prepared.datasets),
    )

    def tell(saved: SavedCheckpoint, grace_needed: int) -> None:
        progress.tell_checkpoint(saved, grace_needed)
        pod.goodbye.compare_needed(grace_needed)

    return Checkpoints(
        CheckpointPlaces.of(plan, store=store, output=output, work=pod.work, origin=origin),
        plan=plan.checkpoints,
        tell=tell,
        image=pod.environ.get(wire.ENV_IMAGE, ""),
    )


def train_adapter(
    prepared: Prepared,
    pod: Pod,
    *,
    progress: Progress,
    checkpoints: Checkpoints,
    folder: Path,
    workers: Workers | None = None,
    is_past_deadline: bool = False,
) -> Trained:
    """Load the model, train it from its newest checkpoint or from the start, and return it.

    `workers` are the other ranks, None where there is one. Where the run `is_past_deadline`, what the
    checkpoint holds is what is returned.

    Raises:
        TrainerError: The run ended here.
    """
    plan, corpus = prepared.plan, prepared.corpus
    progress.enter(Stage.MODEL)
    loaded, group = rank_zero.load_on_all_ranks(
        plan, workers, folder=prepared.base.path, corpus=corpus, work=pod.work
    )
    chosen = choose(plan, loaded, corpus.train, environ=pod.environ, group=group)
    running = Running(
        prepared,
        pod,
        progress,
        chosen,
        checkpoints,
        group=group,
        is_past_deadline=is_past_deadline,
    )
    result = train(
        chosen.loaded,
        corpus.train,
        training=plan.whole_training,
        held_out=len(corpus.validation),
        budget=chosen.budget,
        hooks=running.build_hooks(),
        metrics_path=folder / METRICS_FILE,
        group=group,
        find_snapshot=running.begin,
        is_past_deadline=is_past_deadline,
    )
    return Trained(prepared, chosen, group, running.before, result, checkpoints, folder)


class Running:
    """One training under way: answers what the loop asks."""

    def __init__(
        self,
        prepared: Prepared,
        pod: Pod,
        progress: Progress,
        chosen: Chosen,
        checkpoints: Checkpoints,
        *,
        group: ProcessGroup,
        is_past_deadline: bool = False,
    ) -> None:
        self._prepared = prepared
        self._goodbye = pod.goodbye
        self._progress = progress
        self._chosen = chosen
        self._group = group
        self._checkpoints = checkpoints
        self._is_past_deadline = is_past_deadline
        self.before = NOTHING_HELD_OUT
        """The base model's evaluation, made before the first step or told by a checkpoint."""

    def build_hooks(self) -> Hooks:
        """Return the answers."""
        return Hooks(
            evaluate=partial(
                measure, self._prepared, self._chosen, group=self._group, goodbye=self._goodbye
            ),
            report=self._report,
            is_stopping=self._goodbye.is_asked,
            check=self._check_step,
            offer=self._checkpoints.offer,
            keep_last=self._keep_last,
        )

    def begin(self, state: TrainingState) -> Snapshot | None:
        """Find what to go on from; without it, evaluate the base model, which only an untrained one can."""
        checkpoints, progress = self._checkpoints, self._progress
        snapshot = checkpoints.find_newest(state.find_mismatch)
        if snapshot is not None:
            self.before = HeldOutLoss(**snapshot.told[BASE])
            progress.resume(checkpoints.newest)
        elif self._is_past_deadline:
            raise NotFound(
                "The run is over its deadline and no checkpoint of it can be used, so there is nothing"
                " to publish: apply it again with a longer activeDeadlineSeconds, or with"
                " checkpoints.everySteps set lower.",
                reason="NothingToPublish",
            )
        else:
            self.before = evaluate_base(
                self._chosen.loaded,
                self._prepared.corpus.validation,
                budget=self._chosen.budget,
                group=self._group,
            )
            check_finite(self.before, whose=f"the base model {self._prepared.base.public_id}")
        checkpoints.told = {BASE: asdict(self.before)}
        progress.enter(Stage.TRAIN)
        return snapshot

    def _report(self, report: StepReport) -> None:
        self._checkpoints.note_step(report.seconds)
        self._progress.tell_step(report)

    def _check_step(self) -> None:
        goodbye = self._goodbye
        if goodbye.is_asked() and not goodbye.has_time_beside(self._checkpoints.reserve_s):
            raise BrokenOff

    def _keep_last(self, step: int, capture: Capture) -> int | None:
        return self._checkpoints.keep_last(step, capture, within_s=self._goodbye.seconds_left())


def measure(
    prepared: Prepared, chosen: Chosen, *, group: ProcessGroup, goodbye: Goodbye
) -> HeldOutLoss:
    """Return what the held-out part shows of the model as it is now.

    Raises:
        BrokenOff: The pod was asked to go; an evaluation can be done again.
    """

    def check() -> None:
        if goodbye.is_asked():
            raise BrokenOff

    return evaluate(
        chosen.loaded,
        prepared.corpus.validation,
        budget=chosen.budget,
        group=group,
        check=check,
    )


def finish(
    trained: Trained, pod: Pod, *, progress: Progress
) -> tuple[RunAccount, tuple[Path, ...]]:
    """Evaluate what is published and write its folder; return the account and the files.

    Raises:
        TrainerError: The run ended here.
        BrokenOff: The pod was asked to go.
    """
    progress.enter(Stage.EVALUATE)
    # The weights are those of that step, so the number is too.
    after = trained.result.published_evaluation or measure(
        trained.prepared, trained.chosen, group=trained.group, goodbye=pod.goodbye
    )
    check_finite(after, whose="the trained model")
    # What befalls a rank from here on must not cost what is trained.
    trained.group.close()
    progress.enter(Stage.EXPORT)
    account = build_account(trained, after, environ=pod.environ, deadline_s=pod.deadline_s)
    prepared = trained.prepared
    files = export(
        trained.chosen.loaded,
        account,
        stop=prepared.stop,
        model_folder=prepared.base.path,
        folder=trained.folder,
    )
    return account, files


@contextmanager
def kept_until_published(trained: Trained, *, goodbye: Goodbye) -> Iterator[None]:
    """See that what ends a run after its training costs no training.

    Raises:
        Interrupted: The pod was asked to go; what was trained is saved.
    """
    checkpoints, result = trained.checkpoints, trained.result
    try:
        yield
    except (BrokenOff, Interrupted) as asked:
        kept = checkpoints.keep_last(
            result.last.step, result.capture, within_s=goodbye.seconds_left()
        )
        what_next = f"resumes at step {kept}" if kept else "starts from the beginning"
        raise Interrupted(
            f"The pod was asked to go after the training, before its adapter was published: the next"
            f" attempt {what_next}."
        ) from asked
    except (ServiceUnavailable, OutputUnwritable):
        checkpoints.keep_local(result.capture)
        raise


def build_account(
    trained: Trained,
    after: HeldOutLoss,
    *,
    environ: Mapping[str, str],
    deadline_s: int | None = None,
) -> RunAccount:
    """Return everything that is published of a run beside its weights."""
    prepared, chosen, result = trained.prepared, trained.chosen, trained.result
    summary = build_summary(
        result,
        chosen.loaded,
        training=prepared.plan.whole_training,
        budget=chosen.budget,
        costs=trained.checkpoints.costs,
        predicted_peak_bytes=chosen.runtime.micro_batch.predicted_peak_bytes,
        deadline_s=deadline_s,
        world_size=trained.group.world_size,
    )
    return RunAccount(
        plan=prepared.plan,
        base_name=prepared.base.public_id,
        model_revision=prepared.base.revision,
        datasets=prepared.datasets,
        corpus=prepared.corpus.corpus,
        warnings=prepared.warnings,
        evaluation=build_evaluation(trained.before, after),
        summary=summary,
        history=result.history,
        environment=environment.describe_environment(environ, world_size=trained.group.world_size)
        | {"runtime": chosen.runtime.describe()},
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


def build_evaluation(before: HeldOutLoss, after: HeldOutLoss) -> Evaluation | None:
    """Return base against adapter, or None where nothing was held out."""
    if not after.examples:
        return None
    return Evaluation(
        base_loss=before.loss,
        adapter_loss=after.loss,
        base_bits_per_byte=before.bits_per_byte,
        adapter_bits_per_byte=after.bits_per_byte,
        examples=after.examples,
    )
