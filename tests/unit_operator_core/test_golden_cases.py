"""The operator's life in golden cases: `tests/cases/operator/<case>/`.

After a wanted change of behaviour run with UPDATE_CASES=1 and read the diff as a user would.
"""

import json
import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.unit_operator_core.story import CASES, Told, read_yaml, tell

UPDATE = os.environ.get("UPDATE_CASES") == "1"
CASE_NAMES = sorted(path.name for path in CASES.iterdir() if path.is_dir())
AS_BEFORE = "as before"
"""Written instead of parameters and warnings that did not change: they fill pages."""


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


def answer(told: Told, *, folder: Path) -> dict[Path, str]:
    """Return the files of a case as they should be."""
    actions = told.actions
    files = {"actions.yaml": dump(describe(told))}
    if actions.status is not None:
        files["status.yaml"] = dump(shortened(actions.status, told.observed.body.get("status")))
    if actions.creates and (folder / "resource.yaml").exists():
        config_map, job = actions.creates
        name = next(one for one in ("plan.json", "measure.json") if one in config_map["data"])
        plan = json.loads(config_map["data"][name])
        files[name] = json.dumps(plan, indent=2, ensure_ascii=False) + "\n"
        data = dict(config_map["data"]) | {name: f"see {name}"}
        files["configmap.yaml"] = dump(dict(config_map) | {"data": data})
        files["job.yaml"] = dump(dict(job))
    return {folder / name: text for name, text in files.items()}


def describe(told: Told) -> dict[str, Any]:
    actions = told.actions
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
        "needsJobEvents": actions.needs_job_events,
        "needsBegunPlan": actions.needs_begun_plan,
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
