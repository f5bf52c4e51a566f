"""What has to be measured of a resource's text, and what is known of it already.

Between `observation` and the decisions. A profile is taken from where it is kept: from status, where
it stays with the resource, else from the pod of the Measure Job that found it. Both are asked for the
hash of what is to be measured now, so that neither a changed text nor another tokenizer is ever
answered with an old profile. Pure and total; nothing here decides what to do.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from finetune_api.measure_plan import MeasurePlan
from finetune_api.plan import canonical_json
from finetune_api.profile import Profile
from finetune_api.status import MeasurementStatus
from finetune_operator.decide.job.terminated_pod import proved_outcome
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod
from finetune_resolver.needs import Need

PROFILE_LIMIT: Final = 8192
"""Characters of a profile in status, unless packed: sixteen languages need five thousand."""


@dataclass(frozen=True)
class MeasureState:
    """Where measuring stands for what the spec says now."""

    needs: tuple[Need, ...] = ()
    """Why the text has to be measured; empty where it need not."""
    plan: MeasurePlan | None = None
    """What would be measured; None of a resource that may not run."""
    job: ObservedJob | None = None
    """The Job that measures it."""
    profile: Profile | None = None
    """What was found, also where it was only found for another reason than the needs of now."""
    lost: tuple[ObservedJob, ...] = ()
    """Jobs that measured it to the end, and whose result was not read."""
    stale: tuple[ObservedJob, ...] = ()
    """Jobs that still measure what is no longer needed."""

    @property
    def is_missing(self) -> bool:
        """Whether parameters wait for a measurement."""
        return bool(self.needs) and self.profile is None

    @property
    def kept(self) -> MeasurementStatus | None:
        """The profile as status keeps it."""
        if self.plan is None or self.profile is None:
            return None
        return MeasurementStatus(hash=self.plan.hash, profile=write_profile(self.profile))


def find_measured(
    *,
    needs: tuple[Need, ...],
    plan: MeasurePlan,
    keys: frozenset[tuple[str, str]],
    kept: MeasurementStatus | None,
    jobs: tuple[ObservedJob, ...],
    pods: tuple[ObservedPod, ...],
) -> MeasureState:
    """Return where measuring stands; `jobs` are the Measure Jobs of the run, `keys` what one gets now."""
    same_text = [job for job in jobs if job.plan_hash == plan.hash]
    # Another `secretRef` is another key and no other text: a text whose key was denied is not measured again.
    current = [job for job in same_text if job.secrets == keys]
    profile = _kept_profile(kept, wanted=plan.hash) or _found_profile(same_text, pods=pods)
    waited_for = current if needs and profile is None else []
    return MeasureState(
        needs=needs,
        plan=plan,
        # A Job that goes is no longer to be waited for, once another of the same plan is there.
        job=max(current, key=lambda one: (not one.deleting, one.attempt), default=None),
        profile=profile,
        lost=tuple(job for job in waited_for if job.complete is not None),
        stale=tuple(job for job in jobs if job not in waited_for and is_at_work(job, pods=pods)),
    )


def is_at_work(job: ObservedJob, *, pods: Iterable[ObservedPod]) -> bool:
    """Return whether a Measure Job still holds something: not once its pod has found what it looked for.

    The Job controller takes a moment to call such a Job complete; its log is worth more than that.
    """
    if job.finished or job.deleting:
        return False
    return all(proved_outcome(pod, job=job) is None for pod in pods if pod.job_uid == job.uid)


def next_attempt(jobs: Iterable[ObservedJob]) -> int:
    """Return the attempt of a new Measure Job: names of the run that are taken are not used again."""
    return max((job.attempt for job in jobs), default=0) + 1


def write_profile(profile: Profile) -> str:
    """Return a profile as text, packed where its rows are too many."""
    text = canonical_json(profile.to_rows())
    return text if len(text) <= PROFILE_LIMIT else canonical_json(profile.to_packed())


def read_profile(text: str) -> Profile | None:
    """Return the profile that a text holds, or None where another version wrote it."""
    try:
        return Profile.from_rows(json.loads(text))
    except ValueError:
        return None


def _kept_profile(kept: MeasurementStatus | None, *, wanted: str) -> Profile | None:
    return read_profile(kept.profile) if kept is not None and kept.hash == wanted else None


def _found_profile(jobs: list[ObservedJob], *, pods: tuple[ObservedPod, ...]) -> Profile | None:
    for job in jobs:
        for pod in pods:
            outcome = proved_outcome(pod, job=job) if pod.job_uid == job.uid else None
            if outcome is not None and outcome.profile is not None:
                return outcome.profile
    return None
