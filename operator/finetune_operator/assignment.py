"""What the pod of a Job is to do, whichever role it has: the little that a manifest depends on.

Made of a plan by `decide` and its neighbours, read by `manifests` and `pods`. Values only.
"""

from dataclasses import dataclass
from typing import Self

from finetune_api import wire
from finetune_api.plan import TrainingPlan


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the pod of a Job is to do: its role and the plan that it reads."""

    role: str
    run: int
    plan_json: str
    plan_hash: str
    reads: tuple[str, ...]
    """Addresses of model and texts; claims among them are mounted."""

    @classmethod
    def to_train(cls, plan: TrainingPlan) -> Self:
        """Return the assignment to train as the plan says."""
        texts = (uri for one in plan.datasets for uri in (one.uri, one.validation.uri or ""))
        return cls(
            role=wire.ROLE_TRAIN,
            run=plan.identity.run,
            plan_json=plan.to_json(),
            plan_hash=plan.hash,
            reads=(plan.model.uri, *texts),
        )

    @property
    def trains(self) -> bool:
        """Whether it takes the GPU, and with it the queue and the nodes that have one."""
        return self.role == wire.ROLE_TRAIN
