"""Gather: everything about one resource as one frozen value, read from memory.

Between the stores, which the watches fill, and `decide`. It requests only what a decision asks for
(`Lookups`): the events of a Job that has had no pod for a while, and the plan of a run whose Job is gone.
"""

from collections.abc import Mapping
from dataclasses import replace

from finetune_api import wire
from finetune_operator.cluster.client import ApiClient
from finetune_operator.cluster.kinds import CONFIG_MAPS, CORE_EVENTS
from finetune_operator.decide.values.actions import Lookups
from finetune_operator.decide.values.observation import JobEvent, Observed, ObservedJob, ObservedPod
from finetune_operator.errors import NotFoundError
from finetune_operator.raw_object import RawObject
from finetune_operator.watch.resource_cache import ResourceCache
from finetune_operator.watch.store import Key, Store

EVENT_LIMIT = 20
"""Newest warnings that are looked at for each Job or Pod."""


class Gatherer:
    """Reads the stores.

    Args:
        client: fetches events and plans.
        resources: the LanguageFinetunes.
        jobs: the Jobs.
        pods: their Pods.
    """

    def __init__(
        self,
        *,
        client: ApiClient,
        resources: ResourceCache,
        jobs: Store[ObservedJob],
        pods: Store[ObservedPod],
    ) -> None:
        self._client = client
        self._resources = resources
        self._jobs = jobs
        self._pods = pods

    def observe(self, key: Key) -> Observed | None:
        """Return what is known of a resource, or None where it is gone or going.

        What is going is left to Kubernetes' garbage collector, which follows the owner references.
        """
        body = self._resources.get(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return None
        jobs = [entry.value for entry in self._jobs.owned_by(body["metadata"]["uid"])]
        pods = [entry.value for job in jobs for entry in self._pods.owned_by(job.uid)]
        pods += self._strays(body, known={job.uid for job in jobs})
        return Observed(
            body=body,
            jobs=tuple(sorted(jobs, key=lambda job: (job.run, job.attempt, job.name))),
            pods=tuple(sorted(pods, key=lambda pod: pod.name)),
        )

    def _strays(self, body: RawObject, *, known: set[str]) -> list[ObservedPod]:
        """Return pods of earlier attempts whose Job is gone while they still stop."""
        entries = (self._pods.get(uid) for uid in unended_attempts(body))
        return [one.value for one in entries if one is not None and one.owner_uid not in known]

    async def fetch(self, observed: Observed, *, lookups: Lookups) -> Observed:
        """Return the observation with what a decision asked for."""
        if lookups.pinned_plan:
            plan = await self._fetch_plan(observed, config_map=lookups.pinned_plan)
            observed = replace(observed, pinned_plan=plan)
        if lookups.job_events:
            observed = replace(observed, job_events=await self._fetch_job_events(observed))
        return observed

    async def _fetch_job_events(self, observed: Observed) -> tuple[JobEvent, ...]:
        """Return the warnings about unfinished Jobs and their pods, oldest first."""
        about = [job.uid for job in observed.jobs if not job.finished]
        about += [pod.uid for pod in observed.pods if pod.job_uid in about]
        namespace = observed.body["metadata"]["namespace"]
        found: list[JobEvent] = []
        for uid in about:
            found += await self._warnings_about(uid, namespace=namespace)
        return tuple(sorted(found, key=lambda one: one.time.timestamp() if one.time else 0.0))

    async def _fetch_plan(self, observed: Observed, *, config_map: str) -> str:
        """Return the plan that a ConfigMap of the resource holds, as JSON; empty where there is none."""
        namespace = observed.body["metadata"]["namespace"]
        try:
            found = await self._client.get(CONFIG_MAPS, namespace=namespace, name=config_map)
        except NotFoundError:
            return ""
        text = (found.get("data") or {}).get(wire.PLAN_FILE)
        return text if isinstance(text, str) else ""

    async def _warnings_about(self, uid: str, *, namespace: str) -> list[JobEvent]:
        selector = f"involvedObject.uid={uid},type=Warning"
        events: list[JobEvent] = []
        async for page in self._client.list_pages(
            CORE_EVENTS, namespace=namespace, field_selector=selector
        ):
            events += [JobEvent.from_object(raw) for raw in page.items]
        return events[-EVENT_LIMIT:]


def unended_attempts(body: RawObject) -> list[str]:
    """Return the uids of the pods that status has not seen end; it may be of any shape."""
    status = body.get("status")
    attempts = status.get("attempts") if isinstance(status, Mapping) else None
    entries = attempts if isinstance(attempts, list) else []
    uids = (one.get("uid") for one in entries if isinstance(one, Mapping) and not one.get("end"))
    return [uid for uid in uids if isinstance(uid, str)]
