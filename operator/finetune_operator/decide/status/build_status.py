"""The status of a resource: built whole, in one place, from what is known now.

`decide` says where the run stands (`Report`); this module writes it down beside what must not be
forgotten: times of transitions, earlier attempts, the plan that a running Job obeys. The same report
on the same earlier status is always the same dict, so that nothing is written at rest. `progress`
belongs to another field manager and is no part of it; only its end is built here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from pydantic import ValidationError

from finetune_api.outcome import CorpusLanguage, Outcome, Published, RunSummary, describe_cut
from finetune_api.plan import TrainingPlan
from finetune_api.status import (
    ActiveTime,
    Attempt,
    CheckpointStatus,
    Condition,
    CorpusStatus,
    GpuMemoryStatus,
    LanguageEvaluation,
    LanguageFinetuneStatus,
    MeasurementStatus,
    OutputStatus,
    ParameterStatus,
    PlanStatus,
    ProgressStatus,
    TokenLengths,
    WarningStatus,
)
from finetune_operator.decide.job.terminated_pod import (
    Ended,
    diagnose_ended,
    exit_code,
    proved_outcome,
)
from finetune_operator.decide.status.observed_parameters import with_observations
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.conditions import (
    ConditionUpdate,
    build_conditions,
    format_time,
)
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod

ATTEMPTS_LIMIT: Final = 10
"""API.md section 2."""
SENTENCE_LIMIT: Final = 4096
ALL_LANGUAGES: Final = "*"
ALL_PERCENT: Final = 100
CUT_SHORT: Final = "published-at-deadline"
"""Id of the warning that a run was not trained to its end."""


@dataclass(frozen=True)
class PlanReport:
    """The plan that the run obeys and what it rests on, as status shows them."""

    plan: PlanStatus | None = None
    parameters: tuple[ParameterStatus, ...] = ()
    warnings: tuple[WarningStatus, ...] = ()
    corpus: tuple[CorpusStatus, ...] = ()
    measurement: MeasurementStatus | None = None
    """None keeps the one of before: the spec may return to what it is about."""
    memory: GpuMemoryStatus | None = None

    @classmethod
    def remember(cls, before: LanguageFinetuneStatus) -> Self:
        """Return what status says already."""
        return cls(
            plan=before.plan,
            parameters=tuple(before.parameters),
            warnings=tuple(before.warnings),
            corpus=tuple(before.corpus),
            measurement=before.measurement,
            memory=before.gpu_memory,
        )


@dataclass(frozen=True)
class Report:
    """What is known now; everything else in status is remembered."""

    generation: int
    run: int
    phase: str
    message: str
    updates: tuple[ConditionUpdate, ...]
    languages_text: str = ""
    plan: PlanReport = field(default_factory=PlanReport)
    attempts: tuple[Attempt, ...] = ()
    outcome: Outcome | None = None
    checkpoint: CheckpointStatus | None = None
    active: ActiveTime | None = None


def parse_status(raw: object) -> LanguageFinetuneStatus:
    """Return the stored status as far as it can be read.

    A status may be older than its schema or written by somebody else; a part that does not fit is
    forgotten and built again, the others are kept.
    """
    if not isinstance(raw, Mapping):
        return LanguageFinetuneStatus()
    try:
        return LanguageFinetuneStatus.model_validate(dict(raw))
    except ValidationError:
        return LanguageFinetuneStatus.model_validate(_readable(raw))


def _readable(raw: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, info in LanguageFinetuneStatus.model_fields.items():
        alias = info.alias or name
        value = raw.get(alias)
        if alias == "conditions" and isinstance(value, list):
            value = [one for one in value if _fits("conditions", [one])]
        if alias in raw and _fits(alias, value):
            kept[alias] = value
    return kept


def _fits(alias: str, value: object) -> bool:
    try:
        LanguageFinetuneStatus.model_validate({alias: value})
    except ValidationError:
        return False
    return True


def build_status(
    report: Report, *, before: LanguageFinetuneStatus, now: datetime
) -> LanguageFinetuneStatus:
    """Return the whole status after `before`."""
    written = build_conditions(
        report.updates, before=before.conditions, generation=report.generation, now=now
    )
    # What an earlier run left says nothing about this one, but its attempts are not forgotten.
    is_next = report.run != before.run
    base = LanguageFinetuneStatus(measurement=before.measurement) if is_next else before
    status = base.model_copy(
        update={
            "observed_generation": report.generation,
            "phase": report.phase,
            "message": report.message[:SENTENCE_LIMIT],
            "conditions": written,
            "run": report.run,
            "plan": report.plan.plan,
            "parameters": list(report.plan.parameters),
            "warnings": list(report.plan.warnings),
            "corpus": list(report.plan.corpus),
            "measurement": report.plan.measurement or before.measurement,
            "gpu_memory": report.plan.memory,
            "checkpoint": report.checkpoint,
            "active_time": report.active,
            "attempts": _merge_attempts(before.attempts, seen=report.attempts),
            "languages_text": report.languages_text,
            "progress": None,
        }
    )
    return status if report.outcome is None else _with_outcome(status, outcome=report.outcome)


def with_generation(status: LanguageFinetuneStatus, *, generation: int) -> LanguageFinetuneStatus:
    """Return a status that says the same of a newer generation of the spec."""
    written = [
        one.model_copy(update={"observed_generation": generation}) for one in status.conditions
    ]
    return status.model_copy(
        update={
            "observed_generation": generation,
            "conditions": written,
            "progress": None,
        }
    )


def changed_status(status: LanguageFinetuneStatus, *, raw: object) -> dict[str, Any] | None:
    """Return the object to apply, or None where the stored one already says so."""
    after = status.to_object()
    stored = dict(raw) if isinstance(raw, Mapping) else {}
    stored.pop("progress", None)
    return None if stored == after else after


# --- Parts ----------------------------------------------------------------------------------------


def build_plan_status(
    plan: TrainingPlan,
    *,
    spec_hash: str,
    config_map: str,
    total_steps: int | None,
    estimated_seconds: int | None,
) -> PlanStatus:
    """Return the plan in short; steps are known once the examples are counted."""
    return PlanStatus(
        hash=plan.hash,
        policy=plan.policy.value,
        method=plan.method.value,
        effective_batch=plan.whole_training.sequences_per_step,
        total_steps=total_steps,
        estimated_seconds=estimated_seconds,
        spec_hash=spec_hash,
        config_map=config_map[:128],
    )


def build_last_progress(
    shown: ProgressStatus | None, *, outcome: Outcome, run: int, now: datetime
) -> ProgressStatus | None:
    """Return the progress of a run that is done, or None where it is shown already."""
    before = shown if shown is not None and shown.run == run else ProgressStatus(run=run)
    if before.percent == ALL_PERCENT:
        return None
    update: dict[str, Any] = {
        "percent": ALL_PERCENT,
        "eta_seconds": 0,
        "updated_at": format_time(now),
    }
    if (summary := outcome.summary) is not None:
        update |= {
            "step": summary.steps,
            "total_steps": summary.total_steps,
            "epoch": f"{summary.epochs:.2f}",
        }
        if summary.final_loss is not None:
            update["loss"] = f"{summary.final_loss:.4f}"
    return before.model_copy(update=update)


def build_attempts(
    pods: Iterable[ObservedPod], *, job: ObservedJob, failed: str
) -> tuple[Attempt, ...]:
    """Return an attempt for each pod that a node took.

    Where the run has `failed` for a reason, that ends the pod that never ended by itself too.
    """
    return tuple(
        _attempt(pod, job=job, ending=_ending(pod, job=job) or failed)
        for pod in pods
        if pod.started is not None or pod.ended
    )


def _attempt(pod: ObservedPod, *, job: ObservedJob, ending: str) -> Attempt:
    trainer = pod.trainer
    start = (trainer.started if trainer else None) or pod.started
    end = trainer.finished if trainer else None
    return Attempt(
        job_name=job.name[:1024],
        uid=pod.uid[:128],
        reason=ending[:128],
        exit_code=exit_code(pod),
        node=pod.node[:1024],
        start=format_time(start) if start else None,
        end=format_time(end) if end else None,
    )


def _ending(pod: ObservedPod, *, job: ObservedJob) -> str:
    is_stopped = pod.deleting and job.suspended and exit_code(pod) is None
    if is_stopped or not pod.ended:
        # A pod that was asked to stop may vanish before its end is seen.
        return conditions.JOB_SUSPENDED if is_stopped else ""
    outcome = proved_outcome(pod, job=job)
    return outcome.reason if outcome else diagnose_ended(Ended(pod=pod, job=job)).reason


def _merge_attempts(before: Iterable[Attempt], *, seen: Iterable[Attempt]) -> list[Attempt]:
    """Return the newest attempts; one that ran and is seen no more was lost with its pod."""
    merged = {
        one.uid: one if one.reason else one.model_copy(update={"reason": conditions.POD_LOST})
        for one in before
    }
    merged |= {one.uid: one for one in seen}
    in_order = sorted(merged.values(), key=lambda one: (one.start or "", one.uid))
    return in_order[-ATTEMPTS_LIMIT:]


def _with_outcome(status: LanguageFinetuneStatus, *, outcome: Outcome) -> LanguageFinetuneStatus:
    """Return the status with the figures of the finished run."""
    update: dict[str, Any] = {
        "corpus": _merge_corpus(status.corpus, counted=outcome.corpus),
        "model_revision": outcome.model_revision,
        "parameters": with_observations(status.parameters, outcome=outcome),
        "output": _output(outcome.published) if outcome.published else None,
    }
    if outcome.summary is not None and outcome.summary.deadline_seconds is not None:
        where = outcome.published.uri if outcome.published else ""
        cut = WarningStatus(
            id=CUT_SHORT, severity="warn", message=describe_cut(outcome.summary, uri=where)
        )
        update["warnings"] = [*(one for one in status.warnings if one.id != CUT_SHORT), cut]
    if outcome.evaluation is not None:
        result = outcome.evaluation
        update["evaluation"] = [
            LanguageEvaluation(
                tag=ALL_LANGUAGES,
                base_loss=f"{result.base_loss:.4f}",
                adapter_loss=f"{result.adapter_loss:.4f}",
                base_bits_per_byte=f"{result.base_bits_per_byte:.4f}",
                adapter_bits_per_byte=f"{result.adapter_bits_per_byte:.4f}",
                examples=result.examples,
            )
        ]
    if outcome.summary is not None and status.plan is not None:
        update["plan"] = status.plan.model_copy(
            update={
                "total_steps": outcome.summary.total_steps,
                "trainable_parameters": outcome.summary.trainable_parameters,
            }
        )
    if outcome.summary is not None and outcome.summary.peak_gpu_memory_bytes is not None:
        update["gpu_memory"] = _observed(status.gpu_memory, summary=outcome.summary)
    return status.model_copy(update=update)


def _observed(before: GpuMemoryStatus | None, *, summary: RunSummary) -> GpuMemoryStatus:
    """Return both peaks of a run. The trainer's own prediction knows the micro-batches, the plan's does not."""
    expected, peak = summary.predicted_gpu_memory_bytes, summary.peak_gpu_memory_bytes
    planned = before.predicted if before else None
    return GpuMemoryStatus(
        least=before.least if before else None,
        predicted=planned if expected is None else format_gib(expected),
        observed_peak=None if peak is None else format_gib(peak),
    )


def _output(published: Published) -> OutputStatus:
    return OutputStatus(
        uri=published.uri,
        manifest_sha256=published.manifest_sha256,
        size_bytes=published.size_bytes,
        files=published.files,
    )


def _merge_corpus(
    before: Iterable[CorpusStatus], *, counted: Iterable[CorpusLanguage]
) -> list[CorpusStatus]:
    """Return what was trained on, by the trainer's count, beside what only measuring tells."""
    measured = {one.tag: one for one in before}
    trained = [_corpus(one, measured=measured.get(one.tag)) for one in counted]
    return trained or list(measured.values())


def _corpus(language: CorpusLanguage, *, measured: CorpusStatus | None) -> CorpusStatus:
    counted: dict[str, Any] = {
        "tag": language.tag,
        "examples": language.examples,
        "validation_examples": language.validation_examples,
        "tokens": language.tokens,
        "token_lengths": TokenLengths(
            p50=language.p50, p95=language.p95, p99=language.p99, max=language.longest
        ),
        "truncated_percent": _ratio(100 * language.truncated, language.examples),
        "supervised_tokens": language.supervised_tokens,
    }
    if measured is not None:
        return measured.model_copy(update=counted)
    warnings = []
    if language.skipped:
        warnings.append(
            f"{language.skipped} examples have nothing to learn from and were left out."
        )
    return CorpusStatus(
        **counted,
        chars_per_token=_ratio(language.characters, language.tokens),
        warnings=warnings,
    )


def _ratio(part: int, whole: int) -> str | None:
    return f"{part / whole:.2f}" if whole > 0 else None


def format_gib(size: int) -> str:
    """Return bytes as a quantity in GiB with one digit."""
    return f"{size / 1024**3:.1f}Gi"


def find_condition(stored: Iterable[Condition], wanted: str) -> Condition | None:
    """Return the condition of type `wanted`, or None."""
    return next((one for one in stored if one.type == wanted), None)


def has_ended_before_training(stored: Iterable[Condition]) -> bool:
    """Return whether the run ended before any training, which a change of the spec undoes."""
    known = {one.type: one for one in stored}
    complete = known.get(conditions.COMPLETE)
    if complete is not None and complete.reason == conditions.PLAN_READY:
        return True
    # A measurement failed, or finished work was found, before a training Job was created.
    created = known.get(conditions.JOB_CREATED)
    return created is None or created.status != "True"
