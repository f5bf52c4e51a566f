"""Everything that the steps of `decide` look at, each part worked out once and only where asked for.

Between `observation`, which shows the cluster, and `decide`, which judges it. What is read here is
read with suspicion: a status may be lost or old, labels can be changed by anybody who may edit Jobs.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

from finetune_api import wire
from finetune_api.resource import ObjectMeta
from finetune_api.status import LanguageFinetuneStatus
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
from finetune_operator.decide.plan.measurement import Measured, find_measured
from finetune_operator.decide.status.build_status import parse_status
from finetune_operator.decide.values.names import job_name
from finetune_operator.decide.values.observation import Observed, ObservedJob, ObservedPod
from finetune_operator.decide.values.operator_config import DecisionContext

HIGHEST_RUN: Final = 1_000_000
"""A larger number in a stored status was not written by us."""


@dataclass(frozen=True)
class ReconcileState:
    """Everything that the steps look at."""

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

        By its labels, or by its name: labels can be changed by anybody who may edit Jobs.
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
        """Memory of the attempt that follows, where the Job of now is short of it and more may be given."""
        job = self.job
        if job is None or job.finished or job.attempt != FIRST_ATTEMPT:
            return None
        if not is_short_of_memory(job, pods=self.training_pods, attempts=self.before.attempts):
            return None
        return raise_memory(job.memory_limit, most=self.context.memory_ceiling)

    @property
    def next_attempt(self) -> int:
        """Number of the Job that would be created now."""
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
        """The pods of the training Job of now."""
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
        """The Jobs that looked or look for finished work of the current run."""
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
    def measured(self) -> Measured:
        """Where measuring stands for what the spec says now."""
        admitted = self.admitted
        if isinstance(admitted, SpecRefusal):
            return Measured()
        return find_measured(
            needs=admitted.needs,
            plan=build_measure_plan(admitted.resource, run=self.run),
            keys=secret_environment_prefixes(admitted.resource, role=wire.ROLE_MEASURE),
            kept=self.before.measurement,
            jobs=self.measure_jobs,
            pods=self.observed.pods,
        )

    @cached_property
    def proposal(self) -> ResolvedPlan | SpecRefusal:
        """What the spec resolves to now, with what was measured where it had to be."""
        admitted = self.admitted
        if isinstance(admitted, SpecRefusal):
            return admitted
        return resolve_plan(admitted.resource, run=self.run, profile=self.measured.profile)
