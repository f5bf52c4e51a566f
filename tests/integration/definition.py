"""Gives the API server the CustomResourceDefinition of this checkout."""

from pathlib import Path
from typing import Any

import yaml

from finetune_api import wire
from tests.cluster.fixtures import Lab
from tests.cluster.steps import wait_until

FILE = Path(__file__).parents[2] / f"crds/{wire.GROUP}_{wire.PLURAL}.yaml"
SERVED = f"/apis/{wire.API_VERSION}/{wire.PLURAL}"
RELEASE, RELEASE_NAMESPACE = "language-finetune", "language-finetune-system"


def apply_definition(lab: Lab) -> None:
    """Apply the definition as a part of the demo's release and wait until it is served.

    Helm installs over an object of others only where it says that it belongs to the release. Without
    that a test that applied the definition first would make the demo's `helm install` fail.
    """
    definition: dict[str, Any] = yaml.safe_load(FILE.read_text())
    definition["metadata"] |= {
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {
            "meta.helm.sh/release-name": RELEASE,
            "meta.helm.sh/release-namespace": RELEASE_NAMESPACE,
            "helm.sh/resource-policy": "keep",
        },
    }
    how = ("--server-side", "--force-conflicts", "--field-manager=helm")
    lab.kubectl("apply", *how, "--filename=-", given=yaml.safe_dump(definition))
    # NB: `kubectl wait` fails at once on a definition so new that it has no conditions.
    wait_until(
        lambda: bool(lab.kubectl("get", "--raw", SERVED, check=False)), what=SERVED, timeout_s=30
    )
