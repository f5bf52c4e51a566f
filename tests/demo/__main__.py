"""`make demo` and `make demo-down`: names each step, times it, stops at the first that fails."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.cluster import images, lab, tools
from tests.cluster.layout import S3_REGION, Layout
from tests.cluster.s3 import ENDPOINT, load_keys
from tests.cluster.steps import LabError
from tests.demo import journey, materials, storage
from tests.demo.kube import Cluster, DemoError
from tests.demo.verdict import Verdict, compare, load_chats

T = TypeVar("T")

IMAGES = (
    images.Build(name="operator", dockerfile=Path("operator/Dockerfile"), context=Path()),
    images.Build(
        name="trainer",
        dockerfile=Path("trainer-image/Dockerfile"),
        context=Path(),
        # Only a GPU needs the C compiler.
        arguments={"SYSTEM_PACKAGES": ""},
    ),
)


def main() -> int:
    """Run the demo or take it down; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument(
        "--cluster",
        choices=("lab", "current"),
        default="lab",
        help="lab builds a one-node cluster here; current uses the one that KUBECONFIG names",
    )
    chosen = parser.parse_args()
    try:
        (up if chosen.action == "up" else down)(own=chosen.cluster == "lab")
    except (DemoError, LabError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


class Steps:
    """Numbers, names and times the steps of the demo."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._times: list[tuple[str, float]] = []

    def run(self, what: str, work: Callable[[], T]) -> T:
        """Say what is done, do it, remember how long it took."""
        journey.say(f"[bold]{len(self._times) + 1}. {what}[/bold]")
        started = time.monotonic()
        result = work()
        self._times.append((what, time.monotonic() - started))
        journey.say(f"   [dim]{self._times[-1][1]:.1f} s[/dim]")
        return result

    def show(self) -> None:
        """Print all steps with their times."""
        journey.say("\n[bold]Time of each step[/bold]")
        for what, seconds in self._times:
            journey.say(f"  {seconds:7.1f} s  {what}")
        journey.say(f"  {time.monotonic() - self._started:7.1f} s  altogether")


def up(*, own: bool) -> None:
    """Bring up what is missing, run the example to its end, show what came of it."""
    steps = Steps()
    layout = Layout.from_environment()
    if own:
        steps.run("One-node Kubernetes and S3 on this machine", lambda: _start_lab(layout))
    cluster = _cluster(layout, own=own)
    if not own:
        journey.refuse_taken_cluster(cluster)
    operator_image, trainer_image = steps.run(
        "Operator and trainer images from their Dockerfiles", lambda: _images(layout, own=own)
    )
    model = steps.run("SmolLM2-135M-Instruct from its package", materials.load_model_folder)
    corpus = steps.run("A Swahili corpus of real text", _load_corpus)
    endpoint = _endpoint(layout, own=own)
    steps.run(
        "Upload of model and corpus to S3",
        lambda: storage.upload_materials(endpoint, model=model, corpus=corpus.training),
    )
    steps.run(
        "helm install of the operator",
        lambda: journey.install_operator(
            cluster,
            operator_image=operator_image,
            trainer_image=trainer_image,
            image_id=images.image_id(operator_image) if own else "",
        ),
    )
    steps.run(
        f"kubectl apply -f {journey.EXAMPLE}", lambda: journey.apply_example(cluster, endpoint)
    )
    status = steps.run("The run, to its end", lambda: journey.watch_to_the_end(cluster))
    journey.say("\n[bold]kubectl get lft[/bold]")
    journey.show_resource(cluster)
    journey.say("\n[bold]Why each parameter has its value[/bold]")
    journey.show_parameters(status)
    verdict = steps.run(
        "The adapter in plain PEFT, on text that no pod saw",
        lambda: _judge(endpoint, uri=status["output"]["uri"], model=model, unseen=corpus.unseen),
    )
    _show_verdict(verdict)
    steps.show()
    if verdict.adapter.bits_per_byte >= verdict.base.bits_per_byte:
        raise DemoError("the adapter is no better than the base model on unseen text")


def down(*, own: bool) -> None:
    """Leave nothing behind but the cache."""
    layout = Layout.from_environment()
    if own:
        lab.down(layout)
        return
    journey.uninstall(_cluster(layout, own=False))
    storage.remove_objects(_endpoint(layout, own=False), namespace=journey.NAMESPACE)


def _start_lab(layout: Layout) -> None:
    if os.geteuid() != 0:
        raise DemoError("the lab makes network links and containers: run `make demo` as root")
    lab.up(layout, control_plane_only=False)


def _images(layout: Layout, *, own: bool) -> tuple[str, str]:
    """Return the two image names: built here, or named by the user of another cluster."""
    if not own:
        return _need("OPERATOR_IMAGE"), _need("TRAINER_IMAGE")
    for build in IMAGES:
        images.build_image(build)
    operator, trainer = (images.load_image(build.name, layout=layout) for build in IMAGES)
    return operator, trainer


def _load_corpus() -> materials.CorpusFiles:
    if shutil.which("npm") is None:
        tools.install_packages(("npm",))
    return materials.load_corpus()


def _endpoint(layout: Layout, *, own: bool) -> storage.Endpoint:
    if own:
        keys = load_keys("admin", layout=layout)
        return storage.Endpoint(ENDPOINT, ENDPOINT, keys.access_key, keys.secret_key, S3_REGION)
    url = _need("AWS_ENDPOINT_URL_S3")
    return storage.Endpoint(
        url=url,
        pod_url=os.environ.get("POD_AWS_ENDPOINT_URL_S3", url),
        access_key=_need("AWS_ACCESS_KEY_ID"),
        secret_key=_need("AWS_SECRET_ACCESS_KEY"),
        region=os.environ.get("AWS_REGION", S3_REGION),
    )


def _cluster(layout: Layout, *, own: bool) -> Cluster:
    kubectl = tools.wheel_program(tools.KUBECTL)
    helm = tools.go_program(tools.HELM)
    kubeconfig = str(layout.kubeconfig) if own else _need("KUBECONFIG")
    return Cluster(kubeconfig=kubeconfig, kubectl_program=kubectl, helm_program=helm)


def _need(name: str) -> str:
    if not (value := os.environ.get(name)):
        wanted = "KUBECONFIG, OPERATOR_IMAGE, TRAINER_IMAGE, AWS_ENDPOINT_URL_S3 and AWS keys"
        raise DemoError(f"{name} is not set; `make demo CLUSTER=current` needs {wanted}")
    return value


def _judge(endpoint: storage.Endpoint, *, uri: str, model: Path, unseen: Path) -> Verdict:
    with tempfile.TemporaryDirectory() as folder:
        storage.download_folder(endpoint, uri=uri, folder=Path(folder))
        return compare(model_folder=model, adapter_folder=Path(folder), chats=load_chats(unseen))


def _show_verdict(verdict: Verdict) -> None:
    journey.say(
        f"\n[bold]{verdict.examples} unseen paragraphs, "
        f"{verdict.trainable_parameters:,} adapter parameters[/bold]"
    )
    journey.say("             nats/token   bits/byte")
    for name, loss in (("base model", verdict.base), ("adapter", verdict.adapter)):
        journey.say(f"  {name:<10} {loss.nats_per_token:10.3f}  {loss.bits_per_byte:10.3f}")


if __name__ == "__main__":
    sys.exit(main())
