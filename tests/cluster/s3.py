"""S3: SeaweedFS on the node's address, for the host and for pods alike.

Only the S3 gateway listens where pods reach it. Master, volume server and filer, which ask for no
password, listen on the loopback address of the lab. Buckets are the tests' own business.
"""

import json
import secrets
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.layout import LOOPBACK, NODE_ADDRESS, S3_PORT, Layout
from tests.cluster.processes import Program, build_flags, check_running, start
from tests.cluster.steps import LabError, step, wait_until

ENDPOINT = f"http://{NODE_ADDRESS}:{S3_PORT}"
"""The same for host and pods. Clients use path-style addresses, as boto3 does for any bare address."""

MASTER = f"http://{LOOPBACK}:9333"

ADMIN_ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]
READER_ACTIONS = ["Read", "List"]


@dataclass(frozen=True)
class Keys:
    """One S3 identity's credentials."""

    access_key: str
    secret_key: str


def start_s3(*, weed: Path, layout: Layout) -> None:
    """Start S3 unless it runs. It takes seconds to be ready: start it first and wait for it last."""
    make_identities(layout)
    for folder in ("s3", "s3-tmp"):
        (layout.state / folder).mkdir(exist_ok=True)
    start(build_weed(weed, layout), layout=layout)


def wait_for_s3(layout: Layout) -> None:
    """Wait until S3 takes and gives objects."""

    def is_ready() -> bool:
        check_running("s3", layout=layout)
        return is_serving()

    with step("waits for S3"):
        wait_until(is_ready, what="S3 to answer")


def build_weed(weed: Path, layout: Layout) -> Program:
    """Return SeaweedFS's command."""
    flags = {
        "dir": layout.state / "s3",
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "s3": "true",
        "s3.ip.bind": NODE_ADDRESS,
        "s3.port": S3_PORT,
        "s3.config": layout.s3_identities,
        "s3.iam": "false",
        # No catalogues: S3 alone.
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.volumeSizeLimitMB": 256,
        "master.telemetry": "false",
        # A bucket takes a volume of its own, and tests make many buckets; volumes grow as they are filled.
        "volume.max": 5000,
    }
    server = [weed, "-logtostderr=true", "server", *build_flags(flags, dash="-")]
    # SeaweedFS puts sockets in /tmp whose names hold nothing but its ports, where another one on this
    # machine would take them for its own: give it a /tmp of its own. The process id stays across exec.
    hidden = [path for path in (weed, layout.state) if path.resolve().is_relative_to("/tmp")]
    if hidden:
        raise LabError(
            f"{hidden[0]} lies below /tmp, of which SeaweedFS gets one of its own; set XDG_CACHE_HOME"
            " and LAB_STATE to folders elsewhere"
        )
    own_tmp = 'mount --bind "$0" /tmp && exec "$@"'
    isolated = ("unshare", "--mount", "sh", "-c", own_tmp, str(layout.state / "s3-tmp"))
    # At first use of a bucket, one volume and not the seven that spread load over real disks.
    settings = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    return Program(name="s3", command=[*isolated, *server], environment=settings)


def make_identities(layout: Layout) -> None:
    """Make up the two identities' keys, once a lab."""
    if layout.s3_identities.exists():
        return
    admin, reader = (Keys(f"lab{name}", secrets.token_hex(20)) for name in ("admin", "reader"))
    layout.s3_identities.touch(mode=0o600)
    layout.s3_identities.write_text(json.dumps(build_identities(admin=admin, reader=reader)))


def build_identities(*, admin: Keys, reader: Keys) -> dict[str, object]:
    """Return SeaweedFS's identities file: one that may do everything, one that may only read."""
    return {
        "identities": [
            _identity("admin", admin, actions=ADMIN_ACTIONS),
            _identity("reader", reader, actions=READER_ACTIONS),
        ]
    }


def parse_identities(text: str) -> dict[str, Keys]:
    """Return the keys of each identity in SeaweedFS's identities file."""
    return {
        identity["name"]: Keys(
            access_key=identity["credentials"][0]["accessKey"],
            secret_key=identity["credentials"][0]["secretKey"],
        )
        for identity in json.loads(text)["identities"]
    }


def load_keys(name: str, *, layout: Layout) -> Keys:
    """Return the keys of the identity `admin` or `reader`."""
    return parse_identities(layout.s3_identities.read_text())[name]


def describe(layout: Layout) -> dict[str, object]:
    """Return what a person wants to know of S3: where it is, who may, whether it answers."""
    identities = parse_identities(layout.s3_identities.read_text())
    keys = {name: asdict(value) for name, value in identities.items()}
    return {"endpoint": ENDPOINT, "serving": is_serving(), "identities": keys}


def is_serving() -> bool:
    """Tell whether S3 takes objects: the gateway answers, and there is a disk behind it.

    NB: the gateway answers seconds before the volume server has joined, and writes fail until then.
    """
    return _fetch(ENDPOINT) is not None and has_free_volume(_fetch(f"{MASTER}/dir/status") or "{}")


def has_free_volume(status: str) -> bool:
    """Tell of the master's status whether a volume server has joined and has room."""
    topology = json.loads(status).get("Topology", {})
    return bool(topology.get("Free", 0) or topology.get("Layouts"))


def _fetch(url: str) -> str | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as refusal:
        # The gateway refuses the nameless; that, too, is an answer.
        return "" if refusal.code == 403 else None
    except OSError:
        return None


def _identity(name: str, keys: Keys, *, actions: list[str]) -> dict[str, object]:
    credentials = [{"accessKey": keys.access_key, "secretKey": keys.secret_key}]
    return {"name": name, "credentials": credentials, "actions": actions}
