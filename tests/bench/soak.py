"""Many small runs on the lab while pods, operator, S3 and node agent are killed at random.

    python -m tests.bench.soak [--runs 50] [--at-once 6] [--seed 1] [--minutes 60]
        [--out FOLDER]

Needs the lab and both images of this checkout on its node. A few calm runs come first; every disturbed
run of the same seed must end Complete with their weights, never have two pods at once, and do again no
more steps than a checkpoint's interval and its upload. Prints a table, writes soak.json, and ends with 1
where that is not so. `soak_record` holds what is computed.
"""

import argparse
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from botocore.exceptions import BotoCoreError, ClientError

from tests.bench.soak_kills import Kills
from tests.bench.soak_record import (
    GOES_ON,
    STEP,
    Away,
    RunVerdict,
    Sightings,
    build_table,
    find_failures,
    list_losses,
    read_story,
)
from tests.cluster.fixtures import S3, Lab
from tests.cluster.lab import check_health
from tests.cluster.layout import Layout
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
    truths,
)
from tests.e2e.tiny_model import write_tiny_model

SEEDS = 3
"""Different trainings; each has one calm run."""
STEPS = 600
"""Twenty seconds, not much less than a pod takes to come to its first step."""
EVERY_STEPS = 40
"""A second and a half; an upload takes a fifth of one."""
MOST_LOST = 2 * EVERY_STEPS
"""An interval, and the steps done while a checkpoint is on its way: at most as many on this machine."""
LOOK_S = 5.0
LONGEST_S = 1200.0
"""Of one run, from its creation: longer is a failure of its own."""
BUCKETS = ("e2e-models", "e2e-corpora", "e2e-adapters")


@dataclass
class Watcher:
    """Follows the pods of a namespace, and holds their logs open so that they outlive them."""

    lab: Lab
    pod_logs: Path
    """Of the kubelet: the node is this very host."""
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

    def trains(self, pod: str) -> bool:
        """Return whether the pod's log tells of a step by now."""
        log = self.logs.get(pod)
        if log is None:
            return False
        try:
            said = Path(log.name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return False  # it went meanwhile, and its log with it
        return STEP in said or GOES_ON in said

    def _events(self) -> Iterator[JsonObject]:
        command = [str(self.lab.kubectl_program), f"--kubeconfig={self.lab.kubeconfig}"]
        what = ["get", "pods", "-n", self.namespace, "--watch", "--output-watch-events", "-o=json"]
        self.process = subprocess.Popen([*command, *what], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.sightings.forget_running()
        for line in self.process.stdout:
            yield json.loads(line)

    def _hold_log(self, namespace: str, pod: str, uid: str) -> None:
        for path in self.pod_logs.glob(f"{namespace}_{pod}_{uid}/trainer/0.log"):
            self.logs[pod] = path.open(encoding="utf-8", errors="replace")


@dataclass
class Soak:
    """All runs of one soak."""

    product: Product
    namespace: str
    at_once: int
    ended: dict[str, JsonObject] = field(default_factory=dict)
    """Name to the resource at its end, or when its time was over."""
    began: dict[str, float] = field(default_factory=dict)

    def run(self, names: list[str], *, begin_within_s: float = math.inf) -> None:
        """Create resources, so many at once, and wait for the end of all; none begins after so long."""
        waiting = list(names)
        running: list[str] = []
        last_begin = time.monotonic() + begin_within_s
        while waiting or running:
            if time.monotonic() > last_begin:
                waiting = []
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
                "evalSteps": 100,
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


def judge(soak: Soak, watcher: Watcher, *, outages: list[Away], logs: Path) -> list[RunVerdict]:
    """Return the verdict of each disturbed run; `outages` are S3's, `logs` keeps what pods said."""
    logs.mkdir(exist_ok=True)
    calm = {seed_of(name): soak.weights(name) for name in soak.ended if name.startswith("calm-")}
    verdicts = []
    for name, resource in soak.ended.items():
        if name.startswith("calm-"):
            continue
        pods = watcher.sightings.pods.get(name, [])
        reported = {pod: watcher.logs[pod].readlines() for pod in pods if pod in watcher.logs}
        for pod, lines in reported.items():
            (logs / f"{pod}.log").write_text("".join(lines))
        stories = [read_story(lines) for lines in reported.values()]
        verdicts.append(
            RunVerdict(
                name=name,
                ended=describe_end(resource),
                pods=len(pods),
                most_at_once=watcher.sightings.most.get(name, 0),
                losses=tuple(list_losses(stories, outages=outages)),
                is_equal=soak.weights(name) == calm[seed_of(name)] != "",
            )
        )
    return verdicts


def main() -> int:
    """Run the soak; return 0 where nothing was lost."""
    parser = argparse.ArgumentParser(description="Many small runs, and kills at random.")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no run begins")
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    parser.add_argument("--out", type=Path, default=Path("soak"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    product, layout = connect()
    fill(product)
    # One thread each: many pods share few cores, and what they compute is the same either way.
    install(product.lab, trainer_env={"OMP_NUM_THREADS": "1"})
    namespace = f"soak-{int(time.time())}"
    product.lab.kubectl("create", "namespace", namespace)
    product.create_secret(namespace)
    watcher = Watcher(product.lab, layout.pod_logs, namespace)
    kills = Kills(product, layout, namespace, watcher.sightings, watcher.trains)
    killers = kills.build_killers(seed=options.seed)
    soak = Soak(product, namespace, at_once=options.at_once)
    threading.Thread(target=watcher.watch, daemon=True).start()
    soak.run([f"calm-{seed}" for seed in range(SEEDS)])

    started = time.monotonic()
    for killer in killers:
        killer.start()
    names = [f"run-{number}-{number % SEEDS}" for number in range(options.runs)]
    soak.run(names, begin_within_s=60 * options.minutes)
    went_on = [killer.stop() for killer in killers]
    watcher.stop()

    runs = judge(soak, watcher, outages=kills.outages, logs=options.out / "logs")
    failures = find_failures(runs, most_lost=MOST_LOST)
    unread = [
        pod for pods in watcher.sightings.pods.values() for pod in pods if pod not in watcher.logs
    ]
    failures += [f"the log of {pod} was not found" for pod in unread]
    if not all(went_on):
        failures.append("the kills ended before the runs did: what they killed did not come back")
    table = build_table(
        runs,
        kills=kills.counts(),
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
