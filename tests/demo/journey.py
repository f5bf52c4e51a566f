"""What a user does with kubectl and helm: install, apply, watch, look.

Every function takes the cluster and talks to it; what is printed is what the cluster says.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from tests.demo.kube import Cluster, DemoError
from tests.demo.storage import Endpoint

RELEASE = "language-finetune"
SYSTEM_NAMESPACE = "language-finetune-system"
NAMESPACE = "language-demo"
RESOURCE = "swahili"
EXAMPLE = Path("examples/swahili.yaml")
CHART = Path("charts/language-finetune")
CRD = "languagefinetunes.langops.dev"
MADE_BY_DEMO = "langops.dev/demo"
"""Label of the namespaces that the demo made. In a cluster of somebody else's it decides what
`demo-down` may remove."""
POLL_S = 1.0
"""Between two looks at the resource; progress itself is pushed."""
PATIENCE_S = 30 * 60
"""A run of the demo takes minutes; past this something is wrong."""

# Where there is no terminal (CI, a file) the tables still want room.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def refuse_taken_cluster(cluster: Cluster) -> None:
    """Refuse a cluster where the demo would meet somebody else's operator.

    Raises:
        DemoError: a namespace of the demo's name or the definition is there, and the demo made
            neither. To go on would take over somebody's release, and `demo-down` would delete the
            definition with everybody's resources.
    """
    instead = f"try the operator that is there with `kubectl apply -f {EXAMPLE}`"
    for namespace in (SYSTEM_NAMESPACE, NAMESPACE):
        if _exists(cluster, "namespace", namespace) and not _is_ours(cluster, namespace):
            raise DemoError(
                f"the cluster has a namespace {namespace} that the demo did not make: {instead}"
            )
    if _exists(cluster, "crd", CRD) and not _exists(cluster, "namespace", SYSTEM_NAMESPACE):
        raise DemoError(
            f"the cluster has {CRD} already, and two operators must not serve the same resources:"
            f" {instead}"
        )


def _make_namespace(cluster: Cluster, name: str, **labels: str) -> None:
    metadata = {"name": name, "labels": {MADE_BY_DEMO: "true", **labels}}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


def _exists(cluster: Cluster, kind: str, name: str) -> bool:
    return bool(cluster.kubectl("get", kind, name, "--ignore-not-found", "--output=name"))


def _is_ours(cluster: Cluster, namespace: str) -> bool:
    labels = cluster.get("namespace", namespace)["metadata"].get("labels", {})
    return MADE_BY_DEMO in labels


def install_operator(
    cluster: Cluster, *, operator_image: str, trainer_image: str, image_id: str
) -> None:
    """Install or upgrade the chart and wait until the operator is ready.

    Args:
        cluster: Where.
        operator_image: Its name with a tag.
        trainer_image: Its name with a tag.
        image_id: What the operator's image holds; an image of the same tag may be new.
    """
    operator_name, _, operator_tag = operator_image.rpartition(":")
    trainer_name, _, trainer_tag = trainer_image.rpartition(":")
    values = {
        "image.repository": operator_name,
        "image.tag": operator_tag,
        "trainer.image.repository": trainer_name,
        "trainer.image.tag": trainer_tag,
        "podAnnotations.image-id": image_id or operator_image,
    }
    settings = [f"--set-string={key}={value}" for key, value in values.items()]
    _make_namespace(cluster, SYSTEM_NAMESPACE)
    where = ("--namespace", SYSTEM_NAMESPACE)
    cluster.helm("upgrade", "--install", RELEASE, str(CHART), *where, *settings, "--wait")


def apply_example(cluster: Cluster, endpoint: Endpoint) -> None:
    """Apply the Secret with S3's keys and the example."""
    _make_namespace(cluster, NAMESPACE, **{"pod-security.kubernetes.io/enforce": "restricted"})
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s3-credentials", "namespace": NAMESPACE},
            "stringData": endpoint.secret_data(),
        }
    )
    cluster.kubectl("apply", "--namespace", NAMESPACE, "--filename", str(EXAMPLE))


def watch_to_the_end(cluster: Cluster) -> dict[str, Any]:
    """Show the resource until it is Complete; return its status.

    Raises:
        DemoError: it ended Failed or Stalled, or took too long; the message is the resource's own.
    """
    deadline = time.monotonic() + PATIENCE_S
    said = ""
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while time.monotonic() < deadline:
            resource = cluster.get("lft", RESOURCE, "--namespace", NAMESPACE)
            status = resource.get("status", {})
            if console.is_terminal:
                live.update(_render_progress(status), refresh=True)
            elif (line := _describe(status)) != said:
                said = line
                console.print(f"    {escape(line)}")
            if (end := _ended(status)) is not None:
                return end
            time.sleep(POLL_S)
    raise DemoError(f"{RESOURCE} is not done after {PATIENCE_S // 60} minutes: {_describe(status)}")


def _ended(status: dict[str, Any]) -> dict[str, Any] | None:
    conditions = {item["type"]: item for item in status.get("conditions", [])}
    for bad in ("Failed", "Stalled"):
        if conditions.get(bad, {}).get("status") == "True":
            raise DemoError(f"{RESOURCE} is {bad}: {conditions[bad]['message']}")
    return status if conditions.get("Complete", {}).get("status") == "True" else None


def _describe(status: dict[str, Any]) -> str:
    progress = status.get("progress") or {}
    words = [status.get("phase") or "Pending"]
    if (percent := progress.get("percent")) is not None:
        words.append(f"{percent} %")
    for key, name in (("stage", "stage"), ("step", "step"), ("loss", "loss")):
        if (value := progress.get(key)) is not None:
            words.append(f"{name} {value}")
    return ", ".join([*words, status.get("message", "")]).rstrip(", ")


def _render_progress(status: dict[str, Any]) -> Table:
    progress = status.get("progress") or {}
    table = Table.grid(padding=(0, 1))
    table.add_row(
        f"    {status.get('phase') or 'Pending'}",
        ProgressBar(total=100, completed=progress.get("percent") or 0, width=40),
        f"{progress.get('percent') or 0} %",
        f"loss {progress.get('loss') or '-'}",
        f"ETA {progress.get('etaSeconds') or '-'} s",
    )
    return table


def show_resource(cluster: Cluster) -> None:
    """Print what `kubectl get lft` prints."""
    console.print(cluster.kubectl("get", "lft", "--namespace", NAMESPACE, "-o", "wide"), end="")


def show_parameters(status: dict[str, Any]) -> None:
    """Print each resolved parameter with its value, rule and reason."""
    table = Table("parameter", "value", "rule", "why", box=None, pad_edge=False)
    for item in status["parameters"]:
        table.add_row(item["name"], _short(item["value"]), item["rule"], escape(item["message"]))
    console.print(table)
    for warning in status.get("warnings", []):
        console.print(f"  {warning['severity']}: {escape(warning['message'])}")


def _short(value: str) -> str:
    parsed = json.loads(value)
    return " ".join(parsed) if isinstance(parsed, list) else value


def uninstall(cluster: Cluster) -> None:
    """Remove what the demo made in a cluster that it does not own, and nothing else.

    The definition stays where somebody else's resources are left: they would go with it.
    """
    quiet = ("--ignore-not-found", "--wait")
    if not (
        _exists(cluster, "namespace", SYSTEM_NAMESPACE) and _is_ours(cluster, SYSTEM_NAMESPACE)
    ):
        say(f"No namespace {SYSTEM_NAMESPACE} of the demo is in this cluster: nothing to remove.")
        return
    cluster.kubectl("delete", "namespace", NAMESPACE, *quiet)
    if RELEASE in cluster.helm("list", "--namespace", SYSTEM_NAMESPACE, "--short").split():
        cluster.helm("uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE, "--wait")
    if _exists(cluster, "crd", CRD):
        others = cluster.get(CRD, "--all-namespaces")["items"]
        if others:
            say(f"{CRD} stays: {len(others)} resources of other namespaces need it.")
        else:
            cluster.kubectl("delete", "crd", CRD, *quiet)
    cluster.kubectl("delete", "namespace", SYSTEM_NAMESPACE, *quiet)


def say(text: str) -> None:
    """Print one line of the demo."""
    console.print(text)
    sys.stdout.flush()
