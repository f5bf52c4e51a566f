"""`kubectl finetune run`: the parts put together, from the file to the exit code."""

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from finetune_api.validation import ALL_RULES
from finetune_cli.errors import CliError
from finetune_cli.inputs.checking import check_manifest
from finetune_cli.inputs.manifests import ResourceFile
from finetune_cli.inputs.model_files import CONFIG_FILE
from finetune_cli.local_run.begin import begin_resource, build_metadata
from finetune_cli.local_run.local_inputs import (
    ClaimedTexts,
    build_local_spec,
    count_gpus,
    find_local_texts,
    link_texts,
    shown_paths,
)
from finetune_cli.local_run.machine import Machine
from finetune_cli.local_run.progress_receiver import ProgressReceiver
from finetune_cli.local_run.run_loop import Interruption, LocalRun, RunEnd
from finetune_cli.local_run.run_screen import RunScreen, show_end
from finetune_cli.local_run.state_folder import StateFolder, open_state
from finetune_cli.local_run.trainer_process import (
    TrainerSetting,
    check_installed,
    describe_version,
    start_trainer,
)
from finetune_operator.decide.values.operator_config import DecisionContext

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What stands on the command line beside the resource."""

    data: Sequence[str] = ()
    validation: Sequence[str] = ()
    model: str = ""
    """Folder with a copy of the base model."""
    output_dir: str = ""
    """Folder of the adapter instead of the resource's `output.uri`."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a command."""

    end: RunEnd
    body: Mapping[str, Any]
    """The resource with its status."""


def run_on_this_machine(
    manifest: ResourceFile, *, options: RunOptions, screen: RunScreen
) -> RunResult:
    """Run a resource here until it is complete, has failed, or a signal stops it.

    Raises:
        CliError: The resource, an option or this machine cannot be used.
    """
    spec = check_manifest(manifest, rules=ALL_RULES)
    texts = find_local_texts(spec, data=options.data, validation=options.validation)
    model = _find_model(options.model)
    check_installed()
    output = Path(options.output_dir).resolve() if options.output_dir else None
    written = manifest.body.get("metadata") or {}
    metadata = build_metadata(written, place=str(output or ""))
    if not metadata["name"]:
        raise CliError([f"{manifest.source}: metadata.name is missing; give the resource a name."])
    state = open_state(output=output, namespace=metadata["namespace"], name=metadata["name"])
    gpus = count_gpus()
    local = build_local_spec(
        manifest.body["spec"],
        texts=texts,
        gpus=gpus,
        has_hub_token=bool(os.environ.get("HF_TOKEN")),
    )
    screen.shown_paths = shown_paths(texts)
    with state.locked() as lock:
        body = begin_resource(state.load(), metadata=metadata, spec=local)
        _announce(screen, wanted_gpus=spec.resources.gpus, gpus=gpus, state=state)
        return _run(
            body,
            state=state,
            texts=texts,
            setting=partial(
                TrainerSetting,
                state=state,
                output_uri=output.as_uri() if output else "",
                model_copy=model,
                lock=lock,
            ),
            screen=screen,
        )


def _run(
    body: dict[str, Any],
    *,
    state: StateFolder,
    texts: ClaimedTexts,
    setting: "partial[TrainerSetting]",
    screen: RunScreen,
) -> RunResult:
    link_texts(texts, claims=state.work / "claims")
    plans: dict[str, Mapping[str, str]] = {}
    started = time.monotonic()
    with ExitStack() as stack:
        receiver = stack.enter_context(ProgressReceiver(state.work))
        interruption = stack.enter_context(_listening())
        machine = Machine(
            start=partial(
                start_trainer, setting=setting(plans=plans, token_file=receiver.token_file)
            ),
            node=socket.gethostname(),
            now=_now,
        )
        stack.callback(machine.kill)
        run = LocalRun(
            body,
            state=state,
            machine=machine,
            receiver=receiver,
            plans=plans,
            context=build_context(status_url=receiver.url),
            now=_now,
        )
        with screen.live():
            end = run.run(interruption=interruption, show=screen.show)
    seconds = time.monotonic() - started
    show_end(screen, end=end, body=run.body, state=state, seconds=seconds)
    return RunResult(end, run.body)


def build_context(*, status_url: str) -> DecisionContext:
    """Return what an administrator decides: on one's own machine the user decides."""
    return DecisionContext(
        trainer_image=describe_version(),
        status_url=status_url,
        ca_pem="",
        allow_trust_remote_code=True,
    )


def _find_model(folder: str) -> str:
    if not folder:
        return ""
    path = Path(folder).resolve()
    if not (path / CONFIG_FILE).is_file():
        raise CliError(
            [
                (
                    f"--model {folder} holds no {CONFIG_FILE}; expected a folder with a copy of the base model: "
                    "config.json, tokenizer.json and its safetensors."
                )
            ]
        )
    return str(path)


def _announce(screen: RunScreen, *, wanted_gpus: int, gpus: int, state: StateFolder) -> None:
    if wanted_gpus and not gpus:
        screen.say("No GPU is visible here: the run uses the CPU.")
    elif gpus and wanted_gpus > gpus:
        screen.say(
            f"The resource asks for {wanted_gpus} GPUs; the run uses the {gpus} of this machine."
        )
    screen.say(
        f"Log and status: {state.path} (Ctrl-C saves a checkpoint; the same command goes on)"
    )


@contextmanager
def _listening() -> Iterator[Interruption]:
    """Note SIGINT, SIGTERM and SIGHUP while entered."""
    interruption = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        interruption.is_urgent = interruption.is_asked
        interruption.is_asked = True

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> datetime:
    return datetime.now(UTC)
