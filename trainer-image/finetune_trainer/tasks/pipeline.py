"""The run on one screen: which stage follows which, and what one hands to the next.

Called by `__main__`. Stages do not know each other; only this module knows their order. Those that
need torch (`training_stages`) are imported when their turn comes, so that a fault in the data ends a run
in a second.
"""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api import wire
from finetune_api.outcome import PUBLISHED_AT_DEADLINE, Outcome, Published, Stage, describe_cut
from finetune_api.plan import TrainingPlan
from finetune_api.resource import TrainingStage
from finetune_api.wire import ExitCode
from finetune_trainer.errors import AccessDenied, ServiceUnavailable
from finetune_trainer.inputs.data_files import FetchedDataset
from finetune_trainer.inputs.fetch import FetchedModel, Surroundings, fetch_dataset, fetch_model
from finetune_trainer.inputs.plan import check_supported
from finetune_trainer.inputs.tokenization import (
    CorpusTokenizer,
    TokenizationRules,
    TokenizedCorpus,
    check_context,
)
from finetune_trainer.inputs.tokenizer_files import (
    load_context_length,
    load_generation_config,
    load_tokenizer,
)
from finetune_trainer.inputs.validate import ValidDataset, validate_dataset
from finetune_trainer.pod import environment
from finetune_trainer.pod.background_import import import_in_background
from finetune_trainer.pod.graceful_shutdown import GracefulShutdown
from finetune_trainer.pod.pod import Pod
from finetune_trainer.pod.progress import Progress
from finetune_trainer.publish.publish import Finished, OutputPlace, find_finished, publish
from finetune_trainer.publish.run_record import DatasetIdentity, RunRecord
from finetune_trainer.ranks import launcher
from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.credentials import load_credentials
from finetune_trainer.storage.object_store import ObjectStore
from finetune_trainer.storage.output_store import connect_output_store
from finetune_trainer.storage.s3_location import S3Location

if TYPE_CHECKING:
    from finetune_trainer.tasks.run_callbacks import Prepared


TRAINING_STAGES = "finetune_trainer.tasks.training_stages"
PATIENCE_S = 900.0
"""Seconds of waiting for a store that does not answer when the adapter is ready: what was trained for
hours is worth a quarter of an hour, and most failures of a store are over by then (assumption)."""


def run(
    plan: TrainingPlan, *, pod: Pod, progress: Progress, is_past_deadline: bool = False
) -> Outcome:
    """Do what the plan says and return how it ended well.

    A run that `is_past_deadline` does no further step: what its newest checkpoint holds is published.

    Raises:
        TrainerError: It ended otherwise.
    """
    check_supported(plan)
    environment.prepare_environment(plan.resources, work=pod.work, environ=pod.environ)
    environment.check_accelerators(plan.resources)
    output = connect_output(plan, pod)
    deadline_s = pod.deadline_s
    finished = find_finished(output.store, output.place, plan, deadline_s=deadline_s)
    if finished is not None:
        return build_already_done(plan, finished, stage=progress.stage)
    # A refused upload ends the run now, not after hours of training.
    output.store.check_writable(output.place.folder)

    # On several GPUs the other ranks load their libraries while this one fetches and reads.
    with launcher.launched(plan, pod) as workers:
        prepared = prepare(plan, pod, progress=progress)

        # Late: torch takes seconds to load, and a fault of the text is reported without it.
        from finetune_trainer.tasks import training_stages

        trained = training_stages.train_adapter(
            prepared,
            pod,
            progress=progress,
            checkpoints=training_stages.build_checkpoints(
                prepared, pod, store=output.store, output=output.root, progress=progress
            ),
            folder=make_empty(pod.work / "adapter"),
            workers=workers,
            is_past_deadline=is_past_deadline,
        )
        with training_stages.save_unless_published(trained, shutdown=pod.shutdown):
            account, files = training_stages.finish(trained, pod, progress=progress)
            progress.enter(Stage.PUBLISH)
            # A store may hang in the middle of an answer: what was trained is then saved while there is time.
            return pod.shutdown.finish_in_time(
                lambda: publish_once(output.with_patience(pod.shutdown), account, files=files),
                reserve_s=trained.reserve_s,
            )


@dataclass(frozen=True)
class RunOutput:
    """The store of the output and the place of this run in it."""

    store: ObjectStore
    root: S3Location
    """`output.uri`."""
    place: OutputPlace

    def with_patience(self, shutdown: GracefulShutdown) -> "RunOutput":
        """Return the output for what must not be lost: waited for long, unless the pod must go."""
        backoff = Backoff(total_s=PATIENCE_S, sleep=shutdown.sleep)
        return replace(self, store=self.store.with_backoff(backoff))


def prepare(plan: TrainingPlan, pod: Pod, *, progress: Progress) -> "Prepared":
    """Fetch model and text, check the text and tokenise it.

    Raises:
        TrainerError: One of them is not what a training needs.
    """
    progress.enter(Stage.FETCH)
    surroundings = Surroundings(
        environ=pod.environ, claims=Path(pod.environ.get(wire.ENV_CLAIM_DIR, wire.CLAIM_DIR))
    )
    with _importing(plan, pod):
        base = fetch_model(plan.model, pod.work / "model", surroundings=surroundings)
        fetched = [
            fetch_dataset(dataset, pod.work / "data" / str(number), surroundings=surroundings)
            for number, dataset in enumerate(plan.datasets)
        ]
    environment.go_offline(pod.environ)

    progress.enter(Stage.VALIDATE)
    valid = [
        validate_dataset(dataset, each)
        for dataset, each in zip(plan.datasets, fetched, strict=True)
    ]

    progress.enter(Stage.TOKENIZE)
    # It imports Unsloth, which has to come before everything that imports transformers.
    import_module(TRAINING_STAGES)
    from finetune_trainer.tasks.run_callbacks import Prepared

    tokenizer = build_tokenizer(plan, base)
    corpus = tokenize(tokenizer, valid)
    check_context(corpus, context=load_context_length(base.path), model_uri=plan.model.uri)
    return Prepared(
        plan=plan,
        base=base,
        datasets=_identify_datasets(plan, fetched),
        corpus=corpus,
        warnings=(*(text for each in valid for text in each.warnings), *corpus.warnings),
        stop=tokenizer.stop,
    )


def _importing(plan: TrainingPlan, pod: Pod) -> AbstractContextManager[None]:
    """Import what needs torch while model and text are fetched, where a GPU would wait for it.

    Not where they come from the Hub: the libraries must be offline before they are imported.
    """
    uris = [plan.model.uri, *(each.uri for each in plan.datasets)]
    uris += [each.validation.uri for each in plan.datasets if each.validation.uri]
    if not plan.resources.gpus or any(uri.startswith("hf://") for uri in uris):
        return nullcontext()
    environment.go_offline(pod.environ)
    return import_in_background(TRAINING_STAGES, "finetune_trainer.fused.flash4")


def build_tokenizer(plan: TrainingPlan, base: FetchedModel) -> CorpusTokenizer:
    """Return the model's tokenizer under the plan's rules."""
    return CorpusTokenizer(
        load_tokenizer(plan.model, folder=base.path),
        rules=TokenizationRules(
            max_seq_length=plan.training.max_seq_length,
            completion_only=plan.training.completion_only_loss,
            splits_long_texts=plan.stage is TrainingStage.CONTINUED_PRETRAINING,
        ),
        generation=load_generation_config(base.path),
    )


def tokenize(tokenizer: CorpusTokenizer, valid: Sequence[ValidDataset]) -> TokenizedCorpus:
    """Return the sequences of every language."""
    return TokenizedCorpus(
        tuple(
            tokenizer.tokenize_language(
                each.dataset.tag, train=each.read_train(), validation=each.read_validation()
            )
            for each in valid
        )
    )


def publish_once(output: RunOutput, account: RunRecord, *, files: Sequence[Path]) -> Outcome:
    """Publish, unless the pod that took our place, because our node was believed dead, was faster.

    Raises:
        ServiceUnavailable: The store did not answer, or refused a key that it accepted before.
    """
    store, place, deadline_s = output.store, output.place, account.summary.deadline_seconds
    if deadline_s is not None:
        place = place.cut_short(account.summary.steps)
    try:
        finished = find_finished(store, place, account.plan, deadline_s=deadline_s)
        if finished is not None:
            return build_already_done(account.plan, finished, stage=Stage.PUBLISH)
        return build_done(account, publish(store, place, account, files=files))
    except AccessDenied as refusal:
        raise _build_refused_late(refusal) from refusal


def make_empty(folder: Path) -> Path:
    """Return the folder, empty: what an earlier run left on a workstation is never published."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def connect_output(plan: TrainingPlan, pod: Pod) -> RunOutput:
    """Return the store of the output and the place of this run in it."""
    credentials = load_credentials(plan.output.credentials, environ=pod.environ)
    store, root = connect_output_store(plan.output.uri, credentials)
    return RunOutput(store, root, OutputPlace.of(plan, root))


def build_already_done(plan: TrainingPlan, finished: Finished, *, stage: Stage) -> Outcome:
    """Return the outcome where another run has published the same plan."""
    return Outcome(
        exit_code=ExitCode.DONE,
        reason="AlreadyDone",
        stage=stage,
        message=f"The adapter of this plan is already at {finished.published.uri}; nothing was added.",
        plan_hash=plan.hash,
        model_revision=finished.manifest.model_revision,
        published=finished.published,
        evaluation=finished.manifest.evaluation,
        summary=finished.manifest.summary,
        corpus=finished.manifest.corpus,
    )


def build_done(account: RunRecord, published: Published) -> Outcome:
    """Return the outcome of a run that trained and published."""
    summary = account.summary
    reason, message = "Done", f"Trained {summary.steps} steps; the adapter is at {published.uri}."
    if summary.deadline_seconds is not None:
        reason, message = PUBLISHED_AT_DEADLINE, describe_cut(summary, uri=published.uri)
    return Outcome(
        exit_code=ExitCode.DONE,
        reason=reason,
        stage=Stage.PUBLISH,
        message=message,
        plan_hash=account.plan.hash,
        model_revision=account.model_revision,
        published=published,
        evaluation=account.evaluation,
        summary=account.summary,
        corpus=account.corpus,
    )


def _identify_datasets(
    plan: TrainingPlan, fetched: Sequence[FetchedDataset]
) -> tuple[DatasetIdentity, ...]:
    return tuple(
        DatasetIdentity(dataset.tag, dataset.uri, revision=each.revision, sha256=each.sha256)
        for dataset, each in zip(plan.datasets, fetched, strict=True)
    )


def _build_refused_late(refusal: AccessDenied) -> ServiceUnavailable:
    """Return an error that is tried again: the key worked before, and the next pod reads the new one."""
    return ServiceUnavailable(
        f"The key of the output was refused after the training, though it was accepted before: it was"
        f" rotated or withdrawn. The next attempt reads the Secret again. ({refusal.message})",
        reason="KeyRefusedLate",
    )
