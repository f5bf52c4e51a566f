"""The operator's life in golden cases: `tests/cases/operator/<case>/`.

After a wanted change of behaviour run with UPDATE_GOLDEN=1 and read the diff as a user would.
"""

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from finetune_operator.decide.decide import decide
from finetune_operator.decide.state.next_run import NEXT_RUN_S
from finetune_operator.decide.steps.deleted import skip_deleted
from finetune_operator.decide.values.actions import Actions
from tests.unit_operator.decide.state_machine import build_section, find_phases, read_section
from tests.unit_operator.decide.story import CASES, DecidedCase, context_of, read_yaml, tell

UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"
CASE_NAMES = sorted(path.name for path in CASES.iterdir() if path.is_dir())


def is_at_rest(actions: Actions) -> bool:
    """Return whether a case waits for others: what is changed or begun at once shows itself elsewhere."""
    wrote = actions.creates or actions.patches or actions.deletes
    return not wrote and actions.requeue_after_s != NEXT_RUN_S


AS_BEFORE = "as before"
"""Written instead of parameters and warnings that did not change: they fill pages."""
AT_REST = [name for name in CASE_NAMES if is_at_rest(tell(name).actions)]


@pytest.mark.parametrize("name", CASE_NAMES)
def test_the_operator_answers_as_the_case_tells(name: str) -> None:
    for path, text in answer(tell(name), folder=CASES / name).items():
        if UPDATE:
            path.write_text(text)
        assert path.read_text() == text, f"{path.name} of case {name}"


@pytest.mark.parametrize("name", CASE_NAMES)
def test_a_case_has_no_file_that_nothing_wrote(name: str) -> None:
    written = {path.name for path in answer(tell(name), folder=CASES / name)}
    extra = {path.name for path in (CASES / name).iterdir()} - written
    assert extra <= {"resource.yaml", "observed.yaml"}


@pytest.mark.parametrize("name", CASE_NAMES)
def test_kubernetes_takes_what_a_case_creates(name: str) -> None:
    for manifest in tell(name).actions.creates:
        kubernetes_validate.validate(json.loads(json.dumps(manifest)), "1.33", strict=True)


@pytest.mark.parametrize("name", AT_REST)
def test_a_restart_before_its_time_writes_nothing_about_a_case_at_rest(name: str) -> None:
    reported = tell(name)
    left_s = reported.actions.requeue_after_s
    for later_s in (0, 86_400 if left_s is None else left_s - 0.001):
        again = restart(reported, name=name, later_s=later_s)
        assert (again.status, again.progress, again.events) == (None, None, ()), later_s
        assert is_at_rest(again), later_s


def restart(reported: DecidedCase, *, name: str, later_s: float) -> Actions:
    """Decide again on what was written, as it comes back from the API server."""
    stored = reported.observed.body.get("status") or {}
    status = dict(reported.actions.status or stored)
    if progress := reported.actions.progress or stored.get("progress"):
        status["progress"] = progress
    body = json.loads(json.dumps({**reported.observed.body, "status": status}))
    now = reported.now + timedelta(seconds=later_s)
    return decide(replace(reported.observed, body=body), now=now, context=context_of(name))


def answer(reported: DecidedCase, *, folder: Path) -> dict[Path, str]:
    """Return the files of a case as they should be."""
    actions = reported.actions
    files = {"actions.yaml": dump(describe(reported))}
    if actions.status is not None:
        files["status.yaml"] = dump(shortened(actions.status, reported.observed.body.get("status")))
    if actions.creates and (folder / "resource.yaml").exists():
        config_map, job = actions.creates
        name = next(one for one in ("plan.json", "measure.json") if one in config_map["data"])
        plan = json.loads(config_map["data"][name])
        files[name] = json.dumps(plan, indent=2, ensure_ascii=False) + "\n"
        data = dict(config_map["data"]) | {name: f"see {name}"}
        files["configmap.yaml"] = dump(dict(config_map) | {"data": data})
        files["job.yaml"] = dump(dict(job))
    return {folder / name: text for name, text in files.items()}


def describe(reported: DecidedCase) -> dict[str, Any]:
    actions = reported.actions
    told_actions: dict[str, Any] = {
        "creates": [f"{one['kind']} {one['metadata']['name']}" for one in actions.creates],
        "progress": actions.progress,
        "status": "see status.yaml" if actions.status is not None else "stays",
        "patches": [
            f"{one.kind} {one.name}: {json.dumps({**one.spec, **one.annotations})}"
            for one in actions.patches
        ],
        "deletes": [
            f"{one.kind} {one.name}{' once stopped' if one.keeps_until_stopped else ''}"
            for one in actions.deletes
        ],
        "events": [f"{one.type} {one.reason}: {one.message}" for one in actions.events],
        "requeueAfterSeconds": actions.requeue_after_s,
        "needsJobEvents": bool(actions.lookups and actions.lookups.job_events),
        "needsBegunPlan": actions.lookups.pinned_plan if actions.lookups else "",
    }
    return {key: value for key, value in told_actions.items() if value not in (None, [], False, "")}


def shortened(status: dict[str, Any], before: Any) -> dict[str, Any]:
    earlier = before if isinstance(before, dict) else {}
    long = {key: status[key] for key in ("parameters", "warnings") if key in status}
    same = {key: AS_BEFORE for key, value in long.items() if earlier.get(key) == value}
    return status | same


def dump(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def test_every_case_says_in_a_sentence_what_it_is_about() -> None:
    untold = [
        name
        for name in CASE_NAMES
        if not next((CASES / name).glob("[or]*.yaml")).read_text().startswith("# ")
    ]
    assert untold == []


def test_a_case_that_follows_another_names_one_that_exists() -> None:
    followed = {read_yaml(path).get("after", "new") for path in CASES.glob("*/observed.yaml")}
    assert followed <= set(CASE_NAMES)


def test_the_page_draws_the_state_machine_that_the_steps_are() -> None:
    assert read_section() == build_section(), "run `make generate`"


def test_every_step_but_the_first_writes_a_status_in_some_case() -> None:
    silent = [step for step, phases in find_phases().items() if not phases]
    assert silent == [skip_deleted]
