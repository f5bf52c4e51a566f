"""Many small runs on the lab while pods, operator, S3 and node agent are killed at random.

    python -m tests.bench.soak [--runs 50] [--at-once 3] [--seed 1] [--out FOLDER]

Needs the lab and both images of this checkout on its node. A few calm runs come first; every disturbed
run of the same seed must end Complete with their weights, never have two pods at once, and do again no
more steps than a checkpoint's interval and its upload. Prints a table, writes soak.json, and ends with 1
where that is not so. `soak_record` holds what is computed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from botocore.exceptions import BotoCoreError, ClientError

from tests.bench.soak_record import (
    RunVerdict,
    Sightings,
    build_table,
    count_lost,
    find_failures,
    read_story,
)
from tests.cluster import lab as whole_lab
from tests.cluster.fixtures import S3, Lab
from tests.cluster.lab import check_health
from tests.cluster.layout import Layout
from tests.cluster.record import load_record
from tests.cluster.s3 import ENDPOINT, load_keys
from tests.cluster.tools import command_folders
from tests.e2e.product import (
    ENDED,
    Finetune,
    JsonObject,
    Product,
    build_client,
    chats,
    install,
    restart_operator,
    truths,
)
from tests.e2e.tiny_model import write_tiny_model

SEEDS = 3
"""Different trainings; each has one calm run."""
STEPS = 150
EVERY_STEPS = 10
MOST_LOST = 3 * EVERY_STEPS
"""An interval, and the steps done while a checkpoint was on its way to a store that was away."""
PAUSES_S = (5.0, 20.0)
"""Between two kills."""
OUTAGE_S = (3.0, 15.0)
"""How long S3 or the node agent is away."""
LOOK_S = 5.0
LONGEST_S = 1200.0
"""Of one run, from its creation: longer is a failure of its own."""
POD_LOGS = Path("/var/log/pods")
"""The node is this very host."""
BUCKETS = ("e2e-models", "e2e-corpora", "e2e-adapters")


@dataclass
class Watcher:
    """Follows the pods of a namespace, and holds their logs open so that they outlive them."""

    lab: Lab
    namespace: str
    sightings: Sightings = field(default_factory=Sightings)
    logs: dict[str, TextIO] = field(default_factory=dict)
    is_over: threading.Event = field(default_factory=threading.Event)
    process: subprocess.Popen[str] | None = None

    def watch(self) -> None:
        """Follow until `stop`; runs in a thread."""
        while not self.is_over.is_set():
            for event in self._events():
                new = self.sightings.see(event)
                if new is not None:
                    self._hold_log(*new)

    def stop(self) -> None:
        """End the watch."""
        self.is_over.set()
        if self.process is not None:
            self.process.terminate()

    def _events(self) -> Iterator[JsonObject]:
        command = [str(self.lab.kubectl_program), f"--kubeconfig={self.lab.kubeconfig}"]
        what = ["get", "pods", "-n", self.namespace, "--watch", "--output-watch-events", "-o=json"]
        self.process = subprocess.Popen([*command, *what], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        decoder, text = json.JSONDecoder(), ""
        for line in self.process.stdout:
            text += line
            # kubectl indents: only the end of an event stands at the left edge.
            if line.startswith("}"):
                event, _ = decoder.raw_decode(text)
                text = ""
                yield event

    def _hold_log(self, namespace: str, pod: str, uid: str) -> None:
        for path in POD_LOGS.glob(f"{namespace}_{pod}_{uid}/trainer/0.log"):
            self.logs[pod] = path.open(encoding="utf-8", errors="replace")


@dataclass
class Disturber:
    """Kills something every few seconds."""

    product: Product
    layout: Layout
    namespace: str
    watcher: Watcher
    draw: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    is_over: threading.Event = field(default_factory=threading.Event)

    def disturb(self) -> None:
        """Go on until `is_over`; runs in a thread. Whatever was killed is there again at the end."""
        kinds: dict[str, Callable[[], bool]] = {
            "pod asked to go": partial(self._delete_pod),
            "pod killed": partial(self._delete_pod, "--grace-period=1"),
            "operator": self._restart_operator,
            "S3": partial(self._kill, "s3"),
            "node agent": partial(self._kill, "kubelet"),
        }
        while not self.is_over.wait(self.draw.uniform(*PAUSES_S)):
            kind = self.draw.choice(sorted(kinds))
            if kinds[kind]():
                self.kills[kind] += 1

    def _restart_operator(self) -> bool:
        restart_operator(self.product)
        return True

    def _delete_pod(self, *options: str) -> bool:
        running = self.watcher.sightings.running.values()
        pods = sorted(pod for each in running for pod in each)
        if not pods:
            return False
        pod = self.draw.choice(pods)
        where = ("-n", self.namespace, "--wait=false", "--ignore-not-found")
        self.product.lab.kubectl("delete", "pod", pod, *where, *options)
        return True

    def _kill(self, name: str) -> bool:
        process = load_record(self.layout.record).process(name)
        if process is None:
            return False
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(self.draw.uniform(*OUTAGE_S))
        whole_lab.up(self.layout, control_plane_only=False)
        return True


@dataclass
class Soak:
    """All runs of one soak."""

    product: Product
    namespace: str
    at_once: int
    ended: dict[str, JsonObject] = field(default_factory=dict)
    """Name to the resource at its end, or when its time was over."""
    began: dict[str, float] = field(default_factory=dict)

    def run(self, names: list[str]) -> None:
        """Create resources, so many at once, and wait for the end of all."""
        waiting = list(names)
        running: list[str] = []
        while waiting or running:
            while waiting and len(running) < self.at_once:
                name = waiting.pop(0)
                self.product.lab.apply(self._build(name))
                self.began[name] = time.monotonic()
                running.append(name)
            time.sleep(LOOK_S)
            found = json.loads(
                self.product.lab.kubectl("get", "lft", "-n", self.namespace, "-o", "json")
            )
            for resource in found["items"]:
                name = resource["metadata"]["name"]
                if name in running and self._is_over(resource):
                    running.remove(name)
                    self.ended[name] = resource

    def _is_over(self, resource: JsonObject) -> bool:
        late = time.monotonic() - self.began[resource["metadata"]["name"]] > LONGEST_S
        return late or bool(truths(resource) & ENDED)

    def _build(self, name: str) -> JsonObject:
        spec = {
            "parameters": {
                "maxSeqLength": 128,
                "batchSize": 4,
                "maxSteps": STEPS,
                "learningRate": 0.001,
                "seed": seed_of(name),
                "evalSteps": 25,
                "evalStrategy": "Steps",
                "saveStrategy": "Best",
                "lora": {"dropout": 0.1},
            },
            "checkpoints": {"everySteps": EVERY_STEPS},
            "backoffLimit": 20,
        }
        data = "s3://e2e-corpora/soak/train.jsonl"
        return Finetune(name=name, dataset=data, spec=spec).build(self.namespace)

    def weights(self, name: str) -> str:
        """Return the hash of a run's published weights; nothing where it has none."""
        uri = self.ended[name].get("status", {}).get("output", {}).get("uri", "")
        if not uri:
            return ""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        answer = self.product.client.get_object(Bucket=bucket, Key=f"{prefix}manifest.json")
        files = json.loads(answer["Body"].read())["files"]
        return next(str(each["sha256"]) for each in files if each["path"].endswith(".safetensors"))


def seed_of(name: str) -> int:
    """Return a run's seed, which ends its name."""
    return int(name.rpartition("-")[2])


def describe_end(resource: JsonObject) -> str:
    """Return how a resource ended, for the table."""
    ends = sorted(truths(resource) & ENDED)
    return ends[0] if ends else f"not within {LONGEST_S:.0f} s"


def connect() -> tuple[Product, Layout]:
    """Return the running lab with the product's images on it.

    Raises:
        SystemExit: The lab is down.
    """
    layout = Layout.from_environment()
    health = check_health(layout)
    if not (health.node and health.s3):
        sys.exit("The lab is down: run `python3 -m tests.cluster up` and `make images` first.")
    kubectl, helm = command_folders()
    lab = Lab(
        layout.kubeconfig,
        layout.audit_log,
        layout.volumes,
        health,
        kubectl / "kubectl",
        helm / "helm",
    )
    admin, reader = (load_keys(name, layout=layout) for name in ("admin", "reader"))
    s3 = S3(ENDPOINT, ENDPOINT, admin, reader)
    return Product(lab=lab, s3=s3, client=build_client(s3)), layout


def fill(product: Product) -> None:
    """Put the tiny model and a text into S3."""
    for bucket in BUCKETS:
        try:
            product.client.create_bucket(Bucket=bucket)
        except (ClientError, BotoCoreError):
            # There already: the next write says whether it is usable.
            continue
    rows = chats(80)
    with TemporaryDirectory() as folder:
        write_tiny_model(Path(folder), texts=[json.dumps(row) for row in rows])
        for file in Path(folder).iterdir():
            product.client.upload_file(str(file), "e2e-models", f"tiny/{file.name}")
    product.put_rows("soak/train.jsonl", rows)


def judge(soak: Soak, watcher: Watcher) -> list[RunVerdict]:
    """Return the verdict of each disturbed run."""
    calm = {seed_of(name): soak.weights(name) for name in soak.ended if name.startswith("calm-")}
    verdicts = []
    for name, resource in soak.ended.items():
        if name.startswith("calm-"):
            continue
        pods = watcher.sightings.pods.get(name, [])
        stories = [read_story(watcher.logs[pod]) for pod in pods if pod in watcher.logs]
        verdicts.append(
            RunVerdict(
                name=name,
                ended=describe_end(resource),
                pods=len(pods),
                most_at_once=watcher.sightings.most.get(name, 0),
                steps_lost=count_lost(stories),
                is_equal=soak.weights(name) == calm[seed_of(name)] != "",
            )
        )
    return verdicts


def main() -> int:
    """Run the soak; return 0 where nothing was lost."""
    parser = argparse.ArgumentParser(description="Many small runs, and kills at random.")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    parser.add_argument("--out", type=Path, default=Path("soak"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    product, layout = connect()
    fill(product)
    install(product.lab, trainer_env={})
    namespace = f"soak-{int(time.time())}"
    product.lab.kubectl("create", "namespace", namespace)
    product.create_secret(namespace)
    watcher = Watcher(product.lab, namespace)
    disturber = Disturber(product, layout, namespace, watcher, random.Random(options.seed))
    soak = Soak(product, namespace, at_once=options.at_once)
    threading.Thread(target=watcher.watch, daemon=True).start()
    soak.run([f"calm-{seed}" for seed in range(SEEDS)])

    started = time.monotonic()
    disturbing = threading.Thread(target=disturber.disturb, daemon=True)
    disturbing.start()
    soak.run([f"run-{number}-{number % SEEDS}" for number in range(options.runs)])
    went_on = disturbing.is_alive()
    disturber.is_over.set()
    disturbing.join()
    watcher.stop()

    runs = judge(soak, watcher)
    failures = find_failures(runs, most_lost=MOST_LOST)
    if not went_on:
        failures.append("the kills ended before the runs did: what they killed did not come back")
    table = build_table(
        runs,
        kills=dict(disturber.kills),
        seconds=time.monotonic() - started,
        every_steps=EVERY_STEPS,
    )
    found = {"runs": [asdict(run) for run in runs], "failures": failures, "seed": options.seed}
    (options.out / "soak.json").write_text(json.dumps(found, indent=1))
    (options.out / "soak.md").write_text(f"{table}\n")
    print(table, *failures, sep="\n")
    product.lab.kubectl("delete", "namespace", namespace, "--wait=false")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
