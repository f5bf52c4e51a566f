"""What is known of one resource, for the steps: each part is computed once, when a step first needs it.

Between `observation`, which shows the cluster, and the steps. A status may be lost or old, and labels can
be changed by anyone who may edit Jobs, so neither is trusted. Pure.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

from finetune_api import wire
from finetune_api.resource import ObjectMeta
from finetune_api.status import LanguageFinetuneStatus, PlanStatus
from finetune_operator.decide.job.retry_policy import (
    FIRST_ATTEMPT,
    WITH_MORE_MEMORY,
    has_used_up_memory,
    is_short_of_memory,
    raise_memory,
)
from finetune_operator.decide.manifests.pod import secret_environment_prefixes
from finetune_operator.decide.plan.accept import (
    Admitted,
    ResolvedPlan,
    SpecRefusal,
    admit,
    resolve_plan,
)
from finetune_operator.decide.plan.build_plan import build_measure_plan
from finetune_operator.decide.plan.measurement import MeasureState, find_measured
from finetune_operator.decide.plan.pinned_plan import find_pinned_plan, read_pinned_plan
from finetune_operator.decide.status.build_status import parse_status
from finetune_operator.decide.values.names import job_name
from finetune_operator.decide.values.observation import Observed, ObservedJob, ObservedPod
from finetune_operator.decide.values.operator_config import DecisionContext

HIGHEST_RUN: Final = 1_000_000
"""A larger number in a stored status was not written by this operator."""


@dataclass(frozen=True)
class ReconcileState:
    """Everything that the steps read."""

    observed: Observed
    metadata: ObjectMeta
    now: datetime
    context: DecisionContext

    @cached_property
    def before(self) -> LanguageFinetuneStatus:
        """The stored status, as far as it can be read."""
        return parse_status(self.observed.body.get("status"))

    @cached_property
    def run(self) -> int:
        """Number of the current run; Jobs know it where the status was lost."""
        numbers = [self.before.run, *(job.run for job in self._owned)]
        return max((one for one in numbers if 1 <= one <= HIGHEST_RUN), default=1)

    @cached_property
    def job(self) -> ObservedJob | None:
        """The training Job of the newest attempt of the current run.

        By its labels, or by its name: anyone who may edit Jobs can change labels.
        """
        first = self._job_name(FIRST_ATTEMPT)
        current = [
            job
            for job in self._owned
            if (job.role, job.run) == (wire.ROLE_TRAIN, self.run) or job.name == first
        ]
        return max(current, key=lambda job: (job.attempt, job.name), default=None)

    @cached_property
    def more_memory(self) -> str | None:
        """Memory of the next attempt, if the current Job is short of it and more may be given."""
        job = self.job
        if job is None or job.finished or job.attempt != FIRST_ATTEMPT:
            return None
        if not is_short_of_memory(job, pods=self.training_pods, attempts=self.before.attempts):
            return None
        return raise_memory(job.memory_limit, most=self.context.memory_ceiling)

    @property
    def next_attempt(self) -> int:
        """Number of the attempt that would be created now."""
        first = self._job_name(FIRST_ATTEMPT)
        is_allowed = bool(self.context.memory_ceiling)
        if is_allowed and has_used_up_memory(self.before.attempts, first_job=first):
            return WITH_MORE_MEMORY
        return FIRST_ATTEMPT

    def _job_name(self, attempt: int) -> str:
        return job_name(
            name=self.metadata.name, run=self.run, role=wire.ROLE_TRAIN, attempt=attempt
        )

    @property
    def training_pods(self) -> tuple[ObservedPod, ...]:
        """The pods of the current training Job."""
        return self.pods_of(self.job) if self.job is not None else ()

    @property
    def training_jobs(self) -> tuple[ObservedJob, ...]:
        """The training Jobs of every run."""
        return tuple(job for job in self._owned if job.role == wire.ROLE_TRAIN)

    @cached_property
    def measure_jobs(self) -> tuple[ObservedJob, ...]:
        """The Jobs that measured or measure the text for the current run."""
        return self._jobs_of(wire.ROLE_MEASURE)

    @cached_property
    def probe_jobs(self) -> tuple[ObservedJob, ...]:
        """The Jobs that look or looked for finished work of the current run."""
        return self._jobs_of(wire.ROLE_PROBE)

    def _jobs_of(self, role: str) -> tuple[ObservedJob, ...]:
        wanted = (role, self.run)
        return tuple(job for job in self._owned if (job.role, job.run) == wanted)

    @property
    def _owned(self) -> list[ObservedJob]:
        return [job for job in self.observed.jobs if job.owner_uid == self.metadata.uid]

    def pods_of(self, job: ObservedJob) -> tuple[ObservedPod, ...]:
        """Return the pods of a Job."""
        return tuple(pod for pod in self.observed.pods if job.uid and pod.job_uid == job.uid)

    @cached_property
    def admitted(self) -> Admitted | SpecRefusal:
        """The resource, or why it may not run."""
        return admit(self.observed.body, context=self.context)

    @cached_property
    def measured(self) -> MeasureState:
        """Where measuring stands for what the spec says now."""
        admitted = self.admitted
        if isinstance(admitted, SpecRefusal):
            return MeasureState()
        return find_measured(
            needs=admitted.needs,
            plan=build_measure_plan(admitted.resource, run=self.run),
            keys=secret_environment_prefixes(admitted.resource, role=wire.ROLE_MEASURE),
            kept=self.before.measurement,
            jobs=self.measure_jobs,
            pods=self.observed.pods,
        )

    @property
    def pinned(self) -> PlanStatus | None:
        """The plan that the current run began with, as status names it."""
        admitted = self.admitted
        if isinstance(admitted, SpecRefusal):
            return None
        return find_pinned_plan(self.before, run=self.run, resource=admitted.resource)

    def read_plan(self, *, wanted: str) -> ResolvedPlan | None:
        """Return the plan of this hash that was fetched, or None if it is not there."""
        admitted = self.admitted
        if isinstance(admitted, SpecRefusal):
            return None
        return read_pinned_plan(
            self.observed.pinned_plan,
            wanted=wanted,
            before=self.before,
            run=self.run,
            resource=admitted.resource,
        )

    def resolve_plan(self) -> ResolvedPlan | SpecRefusal:
        """Resolve the spec as it is now, with what was measured. Costs more than all other steps."""
        return self._resolved

    def current_plan(self) -> ResolvedPlan | SpecRefusal:
        """Return the plan that the run began with, else what the spec resolves to now."""
        return self.pinned_plan or self.resolve_plan()

    def require_plan(self) -> ResolvedPlan:
        """Return the current plan in a step after `resolve`.

        Raises:
            TypeError: There is none: the step stands before `resolve` in the list.
        """
        plan = self.current_plan()
        if isinstance(plan, SpecRefusal):
            raise TypeError(plan.message)
        return plan

    @cached_property
    def pinned_plan(self) -> ResolvedPlan | None:
        """The plan that the current run began with, if it was fetched and can be read."""
        pinned = self.pinned
        return None if pinned is None else self.read_plan(wanted=pinned.hash)

    @cached_property
    def _resolved(self) -> ResolvedPlan | SpecRefusal:
        admitted = self.admitted
        if isinstance(admitted, SpecRefusal):
            return admitted
        return resolve_plan(admitted.resource, run=self.run, profile=self.measured.profile)
