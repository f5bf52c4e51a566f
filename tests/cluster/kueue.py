"""Kueue in the lab: the real controller, built from its Go module, installed by its own chart.

Only tests of queues need it, so nothing of it belongs to `up`: `python3 -m tests.cluster kueue` builds it
on demand (7 minutes of CPU once, then kept in the cache) and installs it. While it is there, no Job can be
created without its webhook: a test that installs it takes it out again.
"""

import json
from pathlib import Path

from tests.cluster import images, tools
from tests.cluster.control_plane import kubectl
from tests.cluster.layout import IMAGE_PREFIX, Layout
from tests.cluster.steps import LabError, run, step, wait_until

NAMESPACE = "kueue-system"
DOCKERFILE = Path(__file__).parent / "kueue.Dockerfile"
READY_TIMEOUT = "180s"


def install(layout: Layout) -> None:
    """Install Kueue in the running lab, or bring it to this version."""
    binary = tools.go_program(tools.KUEUE)
    images.build_image(images.Build(name="kueue", dockerfile=DOCKERFILE, context=binary.parent))
    images.load_image("kueue", layout=layout)
    with step(f"installs Kueue {tools.KUEUE.version}"):
        where = [f"--namespace={NAMESPACE}", "--create-namespace", "--values=-"]
        waits = ["--wait", f"--timeout={READY_TIMEOUT}"]
        release = ["upgrade", "--install", "kueue", str(_chart())]
        run([*_helm(layout), *release, *where, *waits], given=build_values())
        wait_until(lambda: _takes_objects(layout), what="Kueue's webhooks to answer")


def _takes_objects(layout: Layout) -> bool:
    """Return whether its webhooks let an object in; its pod says that it is ready before they listen."""
    flavor = {"kind": "ResourceFlavor", "metadata": {"name": "probe"}}
    given = json.dumps(flavor | {"apiVersion": "kueue.x-k8s.io/v1beta2"})
    program = tools.wheel_program(tools.KUBECTL)
    try:
        kubectl("create", "--dry-run=server", "-f-", layout=layout, program=program, given=given)
    except LabError:
        return False
    return True


def uninstall(layout: Layout) -> None:
    """Take Kueue out of the lab, its webhooks included; its own objects must be gone by then."""
    run([*_helm(layout), "uninstall", "kueue", "--namespace", NAMESPACE, "--wait"])


def _chart() -> Path:
    """Return the chart that the module brings along; the module itself may have left Go's cache."""
    module = f"sigs.k8s.io/kueue@{tools.KUEUE.version}"
    reported = json.loads(
        run([tools.go(), "mod", "download", "-json", module], folder=DOCKERFILE.parent)
    )
    return Path(reported["Dir"]) / "charts" / "kueue"


def build_values() -> str:
    """Return the chart's values as JSON, which is YAML too."""
    configuration = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": ":8081"},
        "metrics": {"bindAddress": ":8443"},
        "webhook": {"port": 9443},
        "leaderElection": {"leaderElect": False},
        "integrations": {"frameworks": ["batch/job"]},
    }
    image = {"repository": f"{IMAGE_PREFIX}/kueue", "tag": "dev", "pullPolicy": "IfNotPresent"}
    manager = {"image": image, "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}
    return json.dumps(
        {
            "controllerManager": {"replicas": 1, "manager": manager},
            "managerConfig": {"controllerManagerConfigYaml": json.dumps(configuration)},
        }
    )


def _helm(layout: Layout) -> list[str]:
    program = tools.go_program(tools.HELM)
    return [str(program), "--kubeconfig", str(layout.kubeconfig)]
