"""Reads a golden case: a resource, what the cluster shows of it, and what the operator answers.

`resource.yaml` may be left out where the case is about the one of `new`, or of what it follows.
`observed.yaml` is short: the Job is the one that the operator itself creates for the resource, or
that another case created (`madeBy`), and only what is special of it and of its pods is written down.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune_api.resource import ObjectMeta
from finetune_operator.decide.decide import decide
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.observation import (
    JobEvent,
    Observed,
    ObservedJob,
    ObservedPod,
    Rejection,
)
from finetune_operator.decide.values.operator_config import DecisionContext

CASES = Path(__file__).parents[2] / "cases" / "operator"
START = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
JOB_UID = "5b1f0a34-0000-4000-8000-00000000000b"
CONTEXT = DecisionContext(
    trainer_image="registry.example/language-finetune-trainer:0.1.0",
    status_url="https://language-finetune-status.finetune-system.svc:8443",
    ca_pem="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    default_requests={"cpu": "2", "memory": "8Gi"},
    default_limits={"memory": "32Gi"},
    measure_requests={"cpu": "250m", "memory": "1Gi"},
    measure_limits={"memory": "4Gi"},
    trainer_env={"HF_HUB_DISABLE_TELEMETRY": "1"},
)


@dataclass(frozen=True)
class DecidedCase:
    """A case as it was decided."""

    observed: Observed
    actions: Actions
    now: datetime


class TextLoader(yaml.SafeLoader):
    """Keeps times as text, as JSON has them."""


TextLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    loaded = yaml.load(path.read_text(), Loader=TextLoader)
    assert isinstance(loaded, dict)
    return loaded


@cache
def tell(name: str) -> DecidedCase:
    """Decide the case called `name`."""
    folder = CASES / name
    resource = read_resource(name)
    observed_file = folder / "observed.yaml"
    seen = read_yaml(observed_file) if observed_file.exists() else {}
    resource["metadata"] |= seen.get("metadata", {})
    resource["spec"] |= seen.get("spec", {})
    resource |= stored_status(seen)
    now = datetime.fromisoformat(seen["now"]) if "now" in seen else START
    observed = build_observed(resource, seen)
    return DecidedCase(observed, decide(observed, now=now, context=context_of(name)), now)


def build_state(reported: DecidedCase, *, context: DecisionContext = CONTEXT) -> ReconcileState:
    """Return what a single step gets in a case."""
    return ReconcileState(
        observed=reported.observed,
        metadata=ObjectMeta.model_validate(reported.observed.body["metadata"]),
        now=reported.now,
        context=context,
    )


def context_of(name: str) -> DecisionContext:
    """Return the administrator's choices in a case."""
    observed_file = CASES / name / "observed.yaml"
    seen = read_yaml(observed_file) if observed_file.exists() else {}
    return replace(CONTEXT, **seen.get("settings", {}))


def read_resource(name: str) -> dict[str, Any]:
    """Return the resource of a case: its own, or that of the case that it follows."""
    folder = CASES / name
    if (folder / "resource.yaml").exists():
        return read_yaml(folder / "resource.yaml")
    seen = read_yaml(folder / "observed.yaml")
    before = seen["after"] if "after" in seen else seen.get("resourceOf", "new")
    return read_resource(before)


def stored_status(seen: Mapping[str, Any]) -> dict[str, Any]:
    if "status" in seen:
        return {"status": seen["status"]}
    if "after" not in seen:
        return {}
    before = tell(seen["after"])
    return {"status": before.actions.status or before.observed.body.get("status")}


def build_observed(resource: Mapping[str, Any], seen: Mapping[str, Any]) -> Observed:
    written = seen.get("jobs", [seen["job"]] if "job" in seen else [])
    jobs = [build_raw_job(one) for one in written]
    return Observed(
        body=resource,
        jobs=tuple(ObservedJob.from_object(job) for job in jobs),
        pods=tuple(
            ObservedPod.from_object(build_raw_pod(pod, job=jobs[pod.get("job", 0)]))
            for pod in seen.get("pods", ())
        )
        + tuple(
            ObservedPod.from_object(build_raw_pod(pod, job=build_raw_job({})))
            for pod in seen.get("strays", ())
        ),
        job_events=(
            tuple(JobEvent.from_object(event) for event in seen["events"])
            if "events" in seen
            else None
        ),
        pinned_plan=_pinned_plan(seen),
        name_conflicts=tuple(seen.get("nameConflicts", ())),
        predecessors=tuple(seen.get("predecessors", ())),
        rejected=tuple(Rejection(**one) for one in seen.get("rejected", ())),
    )


def _pinned_plan(seen: Mapping[str, Any]) -> str | None:
    """Return the plan that the shell fetched, of the case that made it."""
    if "planOf" not in seen:
        return None
    config_map, _ = tell(seen["planOf"]).actions.creates
    return str(config_map["data"]["plan.json"])


def build_raw_job(special: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Job that the operator creates for a resource, with what is special of it."""
    if "madeBy" in special:
        _, job = tell(special["madeBy"]).actions.creates
    else:
        resource = read_yaml(CASES / special.get("of", "new") / "resource.yaml")
        _, job = decide(Observed(body=resource), now=START, context=CONTEXT).creates
    raw: dict[str, Any] = json.loads(json.dumps(job))
    raw["metadata"] |= {"uid": JOB_UID, "creationTimestamp": "2026-01-05T10:00:00Z"}
    raw["metadata"] |= special.get("metadata", {})
    raw["metadata"]["annotations"] |= special.get("annotations", {})
    raw["spec"] |= special.get("spec", {})
    raw["status"] = special.get("status", {"active": 1, "startTime": "2026-01-05T10:00:00Z"})
    return raw


def build_raw_pod(special: Mapping[str, Any], *, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod of the Job; an `outcome` beside an exit code is what the trainer left."""
    name = job["metadata"]["name"]
    status = json.loads(json.dumps(special.get("status", {})))
    for container in status.get("containerStatuses", ()):
        terminated = container.get("state", {}).get("terminated", {})
        if "outcome" in terminated:
            terminated["message"] = json.dumps(_outcome(terminated.pop("outcome"), job=job))
    return {
        "metadata": {
            "name": f"{name}-{special.get('suffix', 'x7k2p')}",
            "namespace": job["metadata"]["namespace"],
            "uid": special.get("uid", "9c2e0000-0000-4000-8000-000000000001"),
            "labels": {"batch.kubernetes.io/job-name": name},
            "ownerReferences": [
                {"kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
            ],
            "creationTimestamp": "2026-01-05T10:00:00Z",
            **special.get("metadata", {}),
        },
        "spec": {"nodeName": special.get("node", "")},
        "status": status,
    }


def _outcome(special: dict[str, Any], *, job: Mapping[str, Any]) -> dict[str, Any]:
    plan_hash = job["metadata"]["annotations"]["langops.dev/plan-hash"]
    return {"schemaVersion": 1, "planHash": plan_hash, **special}
