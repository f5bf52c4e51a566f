"""What the pod of a Job is to do, whichever role it has: the little that a manifest depends on.

Made of a plan by `decide` and its neighbours, read by `manifests` and `pods`. Values only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

from finetune_api import wire
from finetune_api.measure_plan import MeasurePlan
from finetune_api.plan import PlannedDataset, TrainingPlan


@dataclass(frozen=True, kw_only=True)
class PodTask:
    """What the pod of a Job is to do: its role and the plan that it reads."""

    role: str
    run: int
    plan_file: str
    """Name of the file that holds the plan."""
    plan_json: str
    plan_hash: str
    reads: tuple[str, ...]
    """Addresses of model and texts; claims among them are mounted."""
    arguments: tuple[str, ...] = ()
    """What the trainer's program is started with."""
    memory: str | None = None
    """Main memory, where another attempt gets more than the resource says."""
    grace_s: int | None = None
    """Grace period in seconds that the run's earlier pods measured to be needed; None where none did."""

    @classmethod
    def to_train(
        cls, plan: TrainingPlan, *, memory: str | None = None, grace_s: int | None = None
    ) -> Self:
        """Return the task to train as the plan says."""
        return cls(
            role=wire.ROLE_TRAIN,
            run=plan.identity.run,
            plan_file=wire.PLAN_FILE,
            plan_json=plan.to_json(),
            plan_hash=plan.hash,
            reads=(plan.model.uri, *_texts(plan.datasets)),
            memory=memory,
            grace_s=grace_s,
        )

    @classmethod
    def to_publish(cls, plan: TrainingPlan, *, memory: str | None = None) -> Self:
        """Return the task to publish what the newest checkpoint of the plan holds."""
        return replace(cls.to_train(plan, memory=memory), arguments=wire.PUBLISH_COMMAND)

    @classmethod
    def to_measure(cls, plan: MeasurePlan) -> Self:
        """Return the task to measure as the plan says."""
        return cls(
            role=wire.ROLE_MEASURE,
            run=plan.identity.run,
            plan_file=wire.MEASURE_FILE,
            plan_json=plan.to_json(),
            plan_hash=plan.hash,
            reads=(plan.model.uri, *_texts(plan.datasets)),
            arguments=wire.MEASURE_COMMAND,
        )

    @classmethod
    def to_probe(cls, plan: TrainingPlan) -> Self:
        """Return the task to look for finished work of the plan."""
        return cls(
            role=wire.ROLE_PROBE,
            run=plan.identity.run,
            plan_file=wire.PLAN_FILE,
            plan_json=plan.to_json(),
            plan_hash=plan.hash,
            reads=(),
            arguments=wire.PROBE_COMMAND,
        )

    @property
    def trains(self) -> bool:
        """Whether it takes the GPU, and with it the queue and the nodes that have one."""
        return self.role == wire.ROLE_TRAIN


def _texts(datasets: Iterable[PlannedDataset]) -> Iterator[str]:
    for dataset in datasets:
        yield dataset.uri
        if dataset.validation.uri is not None:
            yield dataset.validation.uri
