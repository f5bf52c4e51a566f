"""Starts the trainer as the kubelet would: its plan, its environment, its credentials, its log.

From the Job that the decisions built it takes arguments and environment; paths inside a pod become
paths of this machine. The CLI never imports the trainer.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from finetune_api import wire
from finetune_api.plan import canonical_json
from finetune_cli.errors import CliError
from finetune_cli.local_run.state_folder import StateFolder
from finetune_operator.decide.values.actions import Manifest

MODULE = "finetune_trainer"
NEEDED = ("torch", "unsloth", "peft", "boto3", "safetensors")
"""Libraries of the trainer that no other part of this package installs."""
INSTALL = "pip install 'language-finetune[cli,trainer]'"
POD_ONLY = (wire.ENV_SERVER_CA, "HOME")
"""Environment that has a meaning inside a pod alone. The user's HOME holds the S3 profile."""


def check_installed() -> None:
    """Raise if the trainer cannot be started here.

    Raises:
        CliError: A library is missing.
    """
    missing = [name for name in (*NEEDED, MODULE) if util.find_spec(name) is None]
    if missing:
        raise CliError(
            [
                f"run needs {', '.join(missing)}, which is not installed; run `{INSTALL}` and try again."
            ]
        )


def describe_version() -> str:
    """Return what stands for the trainer's image in a manifest: this package and its version."""
    return f"{wire.APP_NAME}=={metadata.version(wire.APP_NAME)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSetting:
    """What every trainer of one command is given."""

    state: StateFolder
    plans: Mapping[str, Mapping[str, str]]
    """Name of a ConfigMap to its data."""
    output_uri: str
    """Takes the place of the plan's output where it is not empty."""
    model_copy: str
    """Folder with a copy of the base model; empty where there is none."""
    token_file: Path
    lock: int
    """File descriptor of the lock, which the trainer holds until it ends."""


class TrainerProcess:
    """One trainer that was started."""

    def __init__(self, process: "subprocess.Popen[bytes]", *, termination_file: Path) -> None:
        self._process = process
        self._termination_file = termination_file

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        code = self._process.poll()
        # What a shell and the kubelet show of a process that a signal ended.
        return 128 - code if code is not None and code < 0 else code

    def read_termination_message(self) -> str:
        """Return the outcome that the trainer wrote, or an empty text."""
        try:
            return self._termination_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def stop(self) -> None:
        """Ask the trainer to save a checkpoint and end."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the trainer and what it started, at once."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait()


def start_trainer(job: Manifest, pod_uid: str, *, setting: TrainerSetting) -> TrainerProcess:
    """Start the trainer of a Job's pod."""
    state = setting.state
    folder = state.work / "pod"
    folder.mkdir(exist_ok=True)
    container = job["spec"]["template"]["spec"]["containers"][0]
    plan_file, plan = _write_plan(job, folder=folder, setting=setting)
    termination = folder / "termination-log"
    termination.unlink(missing_ok=True)
    environ = {
        **_own_environment(),
        **build_environment(container, pod_uid=pod_uid, environ=os.environ),
        wire.ENV_PLAN_PATH: str(plan_file),
        wire.ENV_PLAN_SHA256: hashlib.sha256(plan.encode()).hexdigest(),
        wire.ENV_WORK_DIR: str(state.work),
        wire.ENV_CLAIM_DIR: str(state.work / "claims"),
        wire.ENV_TERMINATION_PATH: str(termination),
        wire.ENV_SERVER_TOKEN: str(setting.token_file),
        wire.ENV_LOCAL_MODEL: setting.model_copy,
    }
    with state.log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, *container.get("args", ())],
            cwd=state.work,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches the CLI alone, which then asks for a checkpoint.
            start_new_session=True,
            pass_fds=(setting.lock,),
        )
    return TrainerProcess(process, termination_file=termination)


def build_environment(
    container: Mapping[str, Any], *, pod_uid: str, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment that the container of a pod adds.

    The keys of a Secret are taken from the user's own environment, under the prefix of their use.
    """
    values = {
        one["name"]: one["value"]
        for one in container.get("env", ())
        if "value" in one and one["name"] not in POD_ONLY
    }
    credentials = {
        f"{source['prefix']}{key}": environ[key]
        for source in container.get("envFrom", ())
        for key in wire.CREDENTIAL_KEYS
        if environ.get(key)
    }
    return {**values, **credentials, wire.ENV_POD_UID: pod_uid}


def _own_environment() -> dict[str, str]:
    """Return the user's environment; module paths that are relative are made absolute."""
    paths = os.environ.get("PYTHONPATH", "")
    absolute = os.pathsep.join(str(Path(one).resolve()) for one in paths.split(os.pathsep) if one)
    return {**os.environ, **({"PYTHONPATH": absolute} if absolute else {})}


def _write_plan(job: Manifest, *, folder: Path, setting: TrainerSetting) -> tuple[Path, str]:
    """Write the plan that the Job mounts, with the output of this machine; return file and text."""
    volumes = job["spec"]["template"]["spec"]["volumes"]
    name = next(one["configMap"]["name"] for one in volumes if one["name"] == wire.PLAN_VOLUME)
    file, text = next(_plans_in(setting.plans[name]))
    plan = json.loads(text)
    if setting.output_uri:
        # The output is no part of the plan's hash.
        plan["output"] = {**plan["output"], "uri": setting.output_uri, "credentials": None}
    text = canonical_json(plan)
    (folder / file).write_text(text, encoding="utf-8")
    return folder / file, text


def _plans_in(data: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((name, text) for name, text in data.items() if name != wire.CA_FILE)
