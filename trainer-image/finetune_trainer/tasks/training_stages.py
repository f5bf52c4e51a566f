"""The half of a run that needs torch: model, training, evaluation and export, with its checkpoints.

Between `pipeline`, which prepares the text before torch is loaded and publishes afterwards, and the
stages, none of which knows another. Whatever ends a run from the first step on leaves something to go
on from.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune_api import wire
from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.outcome import Evaluation, Stage
from finetune_trainer.checkpoints.files import Origin
from finetune_trainer.checkpoints.places import CheckpointPlaces
from finetune_trainer.checkpoints.saver import CheckpointSaver
from finetune_trainer.engine.choose import Chosen, choose
from finetune_trainer.errors import (
    BrokenOff,
    Interrupted,
    OutputUnwritable,
    ServiceUnavailable,
)

# Unsloth before everything that imports transformers.
from finetune_trainer.pod import environment
from finetune_trainer.pod.graceful_shutdown import GracefulShutdown
from finetune_trainer.pod.pod import Pod
from finetune_trainer.pod.progress import Progress
from finetune_trainer.publish.export import export
from finetune_trainer.publish.run_record import RunRecord
from finetune_trainer.publish.run_summary import build_summary
from finetune_trainer.ranks.launcher import Workers
from finetune_trainer.ranks.process_group import ProcessGroup
from finetune_trainer.steps.eval_loss import HeldOutLoss
from finetune_trainer.steps.step_report import METRICS_FILE
from finetune_trainer.storage.object_store import ObjectStore
from finetune_trainer.storage.s3_location import S3Location
from finetune_trainer.tasks import rank_zero
from finetune_trainer.tasks.run_callbacks import Prepared, RunCallbacks, check_finite, measure
from finetune_trainer.training.loop import TrainResult, train


@dataclass(frozen=True)
class Trained:
    """A trained model and how it came about."""

    prepared: Prepared
    chosen: Chosen
    group: ProcessGroup
    before: HeldOutLoss
    result: TrainResult
    checkpoints: CheckpointSaver
    folder: Path
    """What is published; metrics.jsonl is in it."""

    @property
    def reserve_s(self) -> float | None:
        """Seconds that saving takes where the pod must go before this is published."""
        return self.checkpoints.reserve_for(self.result.last.step)


def build_checkpoints(
    prepared: Prepared, pod: Pod, *, store: ObjectStore, output: S3Location, progress: Progress
) -> CheckpointSaver:
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
        progress.report_checkpoint(saved, grace_needed)
        pod.shutdown.warn_if_short(grace_needed)

    return CheckpointSaver(
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
    checkpoints: CheckpointSaver,
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
    callbacks = RunCallbacks(
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
        hooks=callbacks.build_hooks(),
        metrics_path=folder / METRICS_FILE,
        group=group,
        find_snapshot=callbacks.begin,
        is_past_deadline=is_past_deadline,
    )
    return Trained(prepared, chosen, group, callbacks.base_evaluation, result, checkpoints, folder)


def finish(trained: Trained, pod: Pod, *, progress: Progress) -> tuple[RunRecord, tuple[Path, ...]]:
    """Evaluate what is published and write its folder; return the account and the files.

    Raises:
        TrainerError: The run ended here.
        BrokenOff: The pod was asked to go.
    """
    progress.enter(Stage.EVALUATE)
    # The weights are those of that step, so the number is too.
    after = trained.result.published_evaluation or measure(
        trained.prepared, trained.chosen, group=trained.group, shutdown=pod.shutdown
    )
    check_finite(after, whose="the trained model")
    # What befalls a rank from here on must not cost what is trained.
    trained.group.close()
    progress.enter(Stage.EXPORT)
    account = build_record(trained, after, environ=pod.environ, deadline_s=pod.deadline_s)
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
def save_unless_published(trained: Trained, *, shutdown: GracefulShutdown) -> Iterator[None]:
    """See that what ends a run after its training costs no training.

    Raises:
        Interrupted: The pod was asked to go; what was trained is saved.
    """
    checkpoints, result = trained.checkpoints, trained.result
    try:
        yield
    except (BrokenOff, Interrupted) as asked:
        kept = checkpoints.keep_last(
            result.last.step, result.capture, within_s=shutdown.seconds_left()
        )
        what_next = f"resumes at step {kept}" if kept else "starts from the beginning"
        raise Interrupted(
            f"The pod was asked to go after the training, before its adapter was published: the next"
            f" attempt {what_next}."
        ) from asked
    except (ServiceUnavailable, OutputUnwritable):
        checkpoints.keep_local(result.capture)
        raise


def build_record(
    trained: Trained,
    after: HeldOutLoss,
    *,
    environ: Mapping[str, str],
    deadline_s: int | None = None,
) -> RunRecord:
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
    return RunRecord(
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
