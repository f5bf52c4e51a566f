"""The Measure pod on one screen: fetch text and tokenizer, measure each language, publish the profile.

Called by `__main__` for the command `measure`; the sister of `pipeline`, with the same errors and
outcome. The measuring itself is `finetune_text`'s. It needs no GPU, fetches no weights and never
imports torch. What was measured before is found by a hash over text and tokenizer, and taken.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from finetune_api import wire
from finetune_api.measure_plan import MEASUREMENT_VERSION, MeasurePlan
from finetune_api.outcome import Outcome, Stage, cut_message
from finetune_api.plan import PlannedDataset, canonical_json
from finetune_api.profile import Profile, TokenizerProfile, find_context, pick_config_facts
from finetune_api.wire import ExitCode
from finetune_text.measure import LanguageText, build_sequencer, measure_language
from finetune_text.survey.language_report import (
    BREAKING,
    REPORT_SCHEMA,
    FindingKind,
    LanguageReport,
    Place,
)
from finetune_text.survey.lengths import build_profiles
from finetune_text.tokenization.tokenizer import TOKENIZER_FILE, load_fast_tokenizer, load_json
from finetune_text.tokenization.tokenizer_facts import describe_tokenizer
from finetune_trainer.errors import DataInvalid
from finetune_trainer.inputs.data_files import FetchedDataset
from finetune_trainer.inputs.fetch import (
    FetchedModel,
    Surroundings,
    fetch_dataset,
    fetch_model,
    is_no_weight,
)
from finetune_trainer.inputs.plan import check_measurable
from finetune_trainer.inputs.text_errors import told_as_invalid_data
from finetune_trainer.inputs.tokenizer_files import load_generation_config, load_tokenizer
from finetune_trainer.inputs.validate import validate_dataset
from finetune_trainer.pod.environment import count_cpus
from finetune_trainer.pod.pod import Pod
from finetune_trainer.pod.progress import Progress
from finetune_trainer.storage.credentials import load_credentials
from finetune_trainer.storage.object_store import ObjectStore
from finetune_trainer.storage.output_store import connect_output_store
from finetune_trainer.storage.s3_location import S3Location, parse_s3_uri

TOO_FEW_TO_BE_SURE = 10
"""Examples below which training's own check of the least number is asked."""
READING = {"format", "columns", "validation", "on_bad_row", "max_row_characters"}
"""What a dataset says of how its rows are read."""
KEY_CHARACTERS = 32
"""Of the hash that names a cached report: 128 bits never meet by chance."""

log = logging.getLogger(__name__)


class MeasuredText(BaseModel):
    """profile.json: everything that one Measure pod found."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )

    measure_hash: str
    model: str
    """URI of the base model."""
    model_revision: str
    """Commit of a hub model; empty elsewhere, because the weights were not read."""
    profile: Profile
    languages: tuple[LanguageReport, ...]

    def to_bytes(self) -> bytes:
        """Return the file as it is stored."""
        return (self.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n").encode()


@dataclass(frozen=True)
class MeasurePlace:
    """Where profile and cache are kept."""

    root: S3Location
    """`output.uri`."""
    namespace: str
    folder: S3Location
    """Of this plan's profile."""

    @classmethod
    def of(cls, plan: MeasurePlan) -> "MeasurePlace":
        """Return the place of one plan's profile below its `output.uri`."""
        root, who = parse_s3_uri(plan.output.uri), plan.identity
        folder = root.join(wire.measured_prefix(who.namespace, who.name, plan.hash))
        return cls(root=root, namespace=who.namespace, folder=folder)

    @property
    def profile(self) -> S3Location:
        """The profile.json of this plan."""
        return self.folder.join(wire.PROFILE_FILE)

    def cached(self, key: str) -> S3Location:
        """The cached report of one language's text."""
        return self.root.join(wire.profile_cache_key(self.namespace, key))


@dataclass(frozen=True)
class _Counter:
    """The model's tokenizer, and what is known of it."""

    tokenizer: Any
    facts: TokenizerProfile
    folder: Path


def measure(plan: MeasurePlan, *, pod: Pod, progress: Progress) -> Outcome:
    """Do what the plan says and return what was found.

    Raises:
        TrainerError: It ended otherwise.
    """
    check_measurable(plan)
    # The tokenizer takes a thread for every core of the node, whatever the pod's limit is.
    pod.environ.setdefault("RAYON_NUM_THREADS", str(count_cpus()))
    place = MeasurePlace.of(plan)
    credentials = load_credentials(plan.output.credentials, environ=pod.environ)
    store, _ = connect_output_store(plan.output.uri, credentials)
    store.check_writable(place.folder)

    progress.enter(Stage.FETCH)
    surroundings = Surroundings(
        environ=pod.environ, claims=Path(pod.environ.get(wire.ENV_CLAIM_DIR, wire.CLAIM_DIR))
    )
    base = fetch_model(
        plan.model, pod.work / "model", surroundings=surroundings, is_wanted=is_no_weight
    )
    fetched = [
        fetch_dataset(dataset, pod.work / "data" / str(number), surroundings=surroundings)
        for number, dataset in enumerate(plan.datasets)
    ]

    progress.enter(Stage.MEASURE)
    counter = load_counter(plan, base)
    reports = [
        find_or_measure(plan, dataset, each, counter=counter, cache=(store, place))
        for dataset, each in zip(plan.datasets, fetched, strict=True)
    ]

    progress.enter(Stage.PUBLISH)
    measured = build_measured(plan, base, counter, reports)
    store.put(place.profile, measured.to_bytes(), content_type="application/json")
    log.info("The profile is published", extra={"uri": place.profile.uri})
    refusal = find_refusal(plan, fetched, reports)
    return build_outcome(measured, refusal=refusal, where=place.profile.uri)


def load_counter(plan: MeasurePlan, base: FetchedModel) -> _Counter:
    """Return the model's tokenizer: from tokenizer.json, else converted as training does it."""
    if (base.path / TOKENIZER_FILE).is_file():
        with told_as_invalid_data():
            fast = load_fast_tokenizer(base.path, source=plan.model.uri)
        return _Counter(fast, describe_tokenizer(fast.backend, base.path), base.path)
    # A model with nothing but tokenizer.model: transformers converts it, and brings torch along.
    loaded = load_tokenizer(plan.model, folder=base.path)
    return _Counter(loaded, describe_tokenizer(loaded.backend_tokenizer, base.path), base.path)


def find_or_measure(
    plan: MeasurePlan,
    dataset: PlannedDataset,
    fetched: FetchedDataset,
    *,
    counter: _Counter,
    cache: tuple[ObjectStore, MeasurePlace],
) -> LanguageReport:
    """Return the report of one language's text: the cached one of the same content, or a new one."""
    store, place = cache
    location = place.cached(build_cache_key(plan, dataset, fetched, counter.facts))
    files = [file.source for file in (*fetched.train, *fetched.validation)]
    census, root = fetched.census, fetched.root
    kept = store.read(location)
    if kept is not None and (report := _parse_report(kept[0])) is not None:
        log.info("The text was measured before", extra={"tag": dataset.tag, "uri": location.uri})
        return report.with_files(files).with_census(census, root=root)
    sequencer = build_sequencer(
        counter.tokenizer,
        generation=load_generation_config(counter.folder),
        completion_only=plan.completion_only_loss,
    )
    text = LanguageText(
        dataset=dataset,
        train=fetched.train,
        validation=fetched.validation,
        max_seq_length=plan.max_seq_length,
        sha256=fetched.sha256,
    )
    with told_as_invalid_data():
        report = measure_language(text, sequencer)
    content = report.model_dump_json(by_alias=True, exclude_none=True).encode()
    store.put(location, content, content_type="application/json")
    return report.with_census(census, root=root)


def build_cache_key(
    plan: MeasurePlan,
    dataset: PlannedDataset,
    fetched: FetchedDataset,
    tokenizer: TokenizerProfile,
) -> str:
    """Return a hash over all that decides one language's figures: text, tokenizer, how it is read."""
    decides = {
        "measurement": MEASUREMENT_VERSION,
        "report": REPORT_SCHEMA,
        "tokenizer": tokenizer.sha256,
        "tag": dataset.tag,
        "train": [(file.path.name, file.sha256) for file in fetched.train],
        "validation": [(file.path.name, file.sha256) for file in fetched.validation],
        "reading": dataset.model_dump(mode="json", include=READING),
        "completion_only_loss": plan.completion_only_loss,
        "max_seq_length": plan.max_seq_length,
    }
    return hashlib.sha256(canonical_json(decides).encode()).hexdigest()[:KEY_CHARACTERS]


def _parse_report(content: bytes) -> LanguageReport | None:
    """Return the cached report, or None where it is none: then the text is measured again."""
    try:
        return LanguageReport.model_validate_json(content)
    except ValidationError:
        return None


def build_measured(
    plan: MeasurePlan,
    base: FetchedModel,
    counter: _Counter,
    reports: Sequence[LanguageReport],
) -> MeasuredText:
    """Return all that was found."""
    config = pick_config_facts(load_json(base.path / "config.json"))
    return MeasuredText(
        measure_hash=plan.hash,
        model=plan.model.uri,
        model_revision=base.revision,
        profile=Profile(
            tokenizer=counter.facts,
            model=config,
            languages=build_profiles(reports, lengths=(plan.max_seq_length, find_context(config))),
        ),
        languages=tuple(reports),
    )


# --- How it ends --------------------------------------------------------------------------------


def find_refusal(
    plan: MeasurePlan, fetched: Sequence[FetchedDataset], reports: Sequence[LanguageReport]
) -> DataInvalid | None:
    """Return the error with which training would refuse the first text that it cannot learn from."""
    for dataset, each, report in zip(plan.datasets, fetched, reports, strict=True):
        try:
            if report.profile.invalid or report.profile.unique_examples < TOO_FEW_TO_BE_SURE:
                validate_dataset(dataset, each)
        except DataInvalid as refusal:
            return refusal
        if refused := report.places(FindingKind.TEMPLATE_REFUSED):
            return _build_template_refusal(
                refused, count=report.count(FindingKind.TEMPLATE_REFUSED)
            )
    return None


def _build_template_refusal(refused: Sequence[Place], *, count: int) -> DataInvalid:
    first = refused[0]
    more = f" ({count - 1} more rows like it)" if count > 1 else ""
    return DataInvalid(
        f"{first.source} {first.what}{more}: expected roles and fields that this model knows; change"
        " the rows and apply again.",
        reason="ChatTemplateRefused",
    )


def build_outcome(measured: MeasuredText, *, refusal: DataInvalid | None, where: str) -> Outcome:
    """Return the end of the pod: measured, or refused as training would refuse it, with all figures."""
    profile = measured.profile
    if refusal is not None:
        return Outcome(
            exit_code=refusal.exit_code,
            reason=refusal.reason,
            stage=Stage.MEASURE,
            message=cut_message(f"{refusal.message} {_describe_places(measured, where=where)}"),
            plan_hash=measured.measure_hash,
            model_revision=measured.model_revision,
            profile=profile,
        )
    examples = sum(language.examples for language in profile.languages)
    tokens = sum(language.tokens for language in profile.languages)
    return Outcome(
        exit_code=ExitCode.DONE,
        reason="Measured",
        stage=Stage.PUBLISH,
        message=f"Measured {examples:,} examples of {tokens:,} tokens; the whole is in {where}.",
        plan_hash=measured.measure_hash,
        model_revision=measured.model_revision,
        profile=profile,
    )


def _describe_places(measured: MeasuredText, *, where: str) -> str:
    """Return where all that is wrong is named: `message` names five lines at most."""
    faults = [
        finding
        for report in measured.languages
        for finding in report.findings
        if finding.kind in BREAKING
    ]
    count, named = sum(each.count for each in faults), sum(len(each.places) for each in faults)
    if not faults:
        return f"What was measured is in {where}."
    if named == count:
        return f"Every line at fault ({count}) is named in {where}."
    return f"The first {named} of {count:,} lines at fault are named in {where}."
