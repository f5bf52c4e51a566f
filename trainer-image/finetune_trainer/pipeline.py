"""The run on one screen: which stage follows which, and what one hands to the next.

Called by `__main__`. Stages do not know each other; only this module knows their order. Those that
need torch are imported when their turn comes, so that a fault in the data ends a run in a second.
"""

import shutil
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api import wire
from finetune_api.outcome import Evaluation, Outcome, Published, Stage
from finetune_api.plan import TrainingPlan
from finetune_api.resource import TrainingStage
from finetune_api.wire import ExitCode
from finetune_trainer import environment
from finetune_trainer.account import DatasetIdentity, RunAccount
from finetune_trainer.credentials import load_credentials
from finetune_trainer.data_files import FetchedDataset
from finetune_trainer.errors import AccessDenied, NotFinite, ServiceUnavailable
from finetune_trainer.fetch import FetchedModel, Surroundings, fetch_dataset, fetch_model
from finetune_trainer.plan_check import check_supported
from finetune_trainer.publish import Finished, OutputPlace, find_finished, publish
from finetune_trainer.report import Progress
from finetune_trainer.run_summary import build_summary
from finetune_trainer.s3 import S3Store, connect
from finetune_trainer.s3_faults import parse_s3_uri
from finetune_trainer.steps import METRICS_FILE
from finetune_trainer.tokenization import (
    CorpusTokenizer,
    TokenizationRules,
    TokenizedCorpus,
    check_context,
)
from finetune_trainer.tokenizer_files import (
    load_context_length,
    load_generation_config,
    load_tokenizer,
)
from finetune_trainer.validate import ValidDataset, validate_dataset

if TYPE_CHECKING:
    from finetune_trainer.evaluate import HeldOutLoss


@dataclass(frozen=True)
class Pod:
    """What surrounds the run."""

    environ: MutableMapping[str, str]
    work: Path
    """Scratch space; everything that is written goes below it."""
    is_stopping: Callable[[], bool]
    """Whether the pod was asked to go."""


def run(plan: TrainingPlan, *, pod: Pod, progress: Progress) -> Outcome:
    """Do what the plan says and return how it ended well.

    Raises:
        TrainerError: It ended otherwise.
    """
    check_supported(plan)
    environment.prepare_environment(plan.resources, work=pod.work, environ=pod.environ)
    environment.check_accelerators(plan.resources)
    store, place = connect_output(plan, pod)
    if (finished := find_finished(store, place, plan)) is not None:
        return build_already_done(plan, finished, stage=progress.stage)
    # A refused upload is told now, not after hours of training.
    store.check_writable(place.folder)

    progress.enter(Stage.FETCH)
    surroundings = Surroundings(
        environ=pod.environ, claims=Path(pod.environ.get(wire.ENV_CLAIM_DIR, wire.CLAIM_DIR))
    )
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
    # Unsloth before everything that imports transformers.
    from finetune_trainer import model

    tokenizer = build_tokenizer(plan, base)
    corpus = tokenize(tokenizer, valid)
    check_context(corpus, context=load_context_length(base.path), model_uri=plan.model.uri)

    progress.enter(Stage.MODEL)
    from finetune_trainer.engines import choose
    from finetune_trainer.evaluate import evaluate, evaluate_base

    chosen = choose(plan, model.load(plan, folder=base.path), corpus.train, environ=pod.environ)
    loaded, budget = chosen.loaded, chosen.budget
    measure = partial(evaluate, loaded, corpus.validation, budget=budget)
    # Before training: trained biases cannot be switched off.
    before = evaluate_base(loaded, corpus.validation, budget=budget)
    check_finite(before, whose=f"the base model {base.public_id}")

    progress.enter(Stage.TRAIN)
    from finetune_trainer.train import Hooks, train

    folder = make_empty(pod.work / "adapter")
    result = train(
        loaded,
        corpus.train,
        training=plan.training,
        held_out=len(corpus.validation),
        budget=budget,
        hooks=Hooks(
            evaluate=lambda: measure().loss,
            report=progress.tell_step,
            is_stopping=pod.is_stopping,
        ),
        metrics_path=folder / METRICS_FILE,
    )

    progress.enter(Stage.EVALUATE)
    after = measure()
    check_finite(after, whose="the trained model")

    progress.enter(Stage.EXPORT)
    from finetune_trainer.export import export

    account = RunAccount(
        plan=plan,
        base_name=base.public_id,
        model_revision=base.revision,
        datasets=_identify_datasets(plan, fetched),
        corpus=corpus.corpus,
        warnings=(*(text for each in valid for text in each.warnings), *corpus.warnings),
        evaluation=build_evaluation(before, after),
        summary=build_summary(
            result,
            loaded,
            training=plan.training,
            budget=budget,
            predicted_peak_bytes=chosen.runtime.launching.predicted_peak_bytes,
        ),
        history=result.history,
        environment=environment.describe_environment(pod.environ)
        | {"runtime": chosen.runtime.describe()},
    )
    files = export(loaded, account, stop=tokenizer.stop, model_folder=base.path, folder=folder)

    progress.enter(Stage.PUBLISH)
    try:
        return publish_once(store, place, account, files=files)
    except AccessDenied as refusal:
        raise _build_refused_late(refusal) from refusal


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


def publish_once(
    store: S3Store, place: OutputPlace, account: RunAccount, *, files: Sequence[Path]
) -> Outcome:
    """Publish, unless the pod that took our place, because our node was believed dead, was faster."""
    if (finished := find_finished(store, place, account.plan)) is not None:
        return build_already_done(account.plan, finished, stage=Stage.PUBLISH)
    return build_done(account, publish(store, place, account, files=files))


def make_empty(folder: Path) -> Path:
    """Return the folder, empty: what an earlier run left on a workstation is never published."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def connect_output(plan: TrainingPlan, pod: Pod) -> tuple[S3Store, OutputPlace]:
    """Return the store of the output and the place of this run in it."""
    credentials = load_credentials(plan.output.credentials, environ=pod.environ)
    output = parse_s3_uri(plan.output.uri)
    return connect(credentials, subject="the output"), OutputPlace.of(plan, output)


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


def build_done(account: RunAccount, published: Published) -> Outcome:
    """Return the outcome of a run that trained and published."""
    return Outcome(
        exit_code=ExitCode.DONE,
        reason="Done",
        stage=Stage.PUBLISH,
        message=f"Trained {account.summary.steps} steps; the adapter is at {published.uri}.",
        plan_hash=account.plan.hash,
        model_revision=account.model_revision,
        published=published,
        evaluation=account.evaluation,
        summary=account.summary,
        corpus=account.corpus,
    )


def check_finite(measured: "HeldOutLoss", *, whose: str) -> None:
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


def build_evaluation(before: "HeldOutLoss", after: "HeldOutLoss") -> Evaluation | None:
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
        f" rotated or withdrawn. The next attempt reads the Secret anew. ({refusal.message})",
        reason="KeyRefusedLate",
    )
