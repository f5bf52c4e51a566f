"""Objects that an older schema admitted live on under this one.

Under names of its own, so that the definition that others use meanwhile stays as it is.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from finetune_api import wire
from finetune_api.crd import build_crd
from tests.cluster.fixtures import Lab
from tests.cluster.steps import wait_until

GROUP, KIND, PLURAL = "older.langops.dev", "OlderFinetune", "olderfinetunes"
NAME = f"{PLURAL}.{GROUP}"
ADMITTED_THEN: dict[str, Any] = {
    "apiVersion": f"{GROUP}/{wire.VERSION}",
    "kind": KIND,
    "metadata": {"name": "older"},
    "spec": {
        "model": {"uri": "llama"},
        "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/sw/", "split": "test"}}],
        "output": {"uri": "s3://adapters/"},
        "parameters": {"numTrainEpochs": 3, "maxSteps": 1000},
        "mode": "Plan",
        "suspend": True,
    },
}


def definition(*, rules: bool) -> dict[str, Any]:
    """Return the definition under the names of this test, as it is or as if no rule had been written."""
    crd = build_crd()
    crd["metadata"]["name"] = NAME
    crd["spec"]["group"] = GROUP
    crd["spec"]["names"] = {"kind": KIND, "plural": PLURAL}
    return crd if rules else without_rules(crd)


def without_rules(node: Any) -> Any:
    if isinstance(node, list):
        return [without_rules(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = node.items()
    return {key: without_rules(value) for key, value in kept if key != "x-kubernetes-validations"}


def apply(lab: Lab, crd: dict[str, Any]) -> None:
    how = ("--server-side", "--force-conflicts", "--filename=-")
    lab.kubectl("apply", *how, given=yaml.safe_dump(crd))


@pytest.fixture
def older(control_plane: Lab, namespace: str) -> Iterator[list[str]]:
    """An object from before the rules, under the rules; yields the arguments that name it."""
    apply(control_plane, definition(rules=False))
    try:
        served = f"/apis/{GROUP}/{wire.VERSION}/{PLURAL}"
        wait_until(
            lambda: bool(control_plane.kubectl("get", "--raw", served, check=False)), what=served
        )
        where = f"--namespace={namespace}"
        control_plane.kubectl("create", where, "--filename=-", given=yaml.safe_dump(ADMITTED_THEN))
        apply(control_plane, definition(rules=True))
        wait_until(lambda: not admits_more(control_plane, where), what="the rules to be served")
        yield [NAME, "older", where]
    finally:
        control_plane.kubectl("delete", "crd", NAME)


def admits_more(lab: Lab, where: str) -> bool:
    """Tell whether another object like the old one would still be admitted."""
    another = ADMITTED_THEN | {"metadata": {"name": "another"}}
    dry = ("create", where, "--dry-run=server", "--filename=-", "--output=name")
    return bool(lab.kubectl(*dry, given=yaml.safe_dump(another), check=False))


@pytest.mark.cluster
def test_an_older_object_takes_status_labels_and_changes_of_other_fields(
    older: list[str], control_plane: Lab
) -> None:
    kind, name, where = older
    status = '{"status":{"phase":"Failed","conditions":[{"type":"Stalled","status":"True"}]}}'

    for change in (
        ("--subresource=status", f"--patch={status}"),
        ('--patch={"metadata":{"labels":{"team":"ml"}}}',),
        ('--patch={"spec":{"backoffLimit":1}}',),
    ):
        control_plane.kubectl("patch", kind, name, where, "--type=merge", *change)

    stored = control_plane.get(kind, name, namespace=where.removeprefix("--namespace="))
    assert stored["status"]["phase"] == "Failed"
    assert stored["metadata"]["labels"] == {"team": "ml"}
    assert stored["spec"] == ADMITTED_THEN["spec"] | {"backoffLimit": 1}
