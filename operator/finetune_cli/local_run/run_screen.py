"""What a person sees of a run on this machine: progress while it goes on, and what came of it.

Only words and tables; the figures are those of status. On a terminal one live line is redrawn; elsewhere
a line is printed whenever something a person would notice has changed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlparse

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune_api.held_out_gain import describe_gain
from finetune_api.outcome import Stage
from finetune_api.status import LanguageEvaluation, LanguageFinetuneStatus, ProgressStatus
from finetune_cli.local_run.run_loop import RunEnd
from finetune_cli.local_run.state_folder import StateFolder
from finetune_operator.decide.status.build_status import parse_status

BAR_WIDTH = 30
REFRESHES_PER_SECOND = 2

STAGES: Mapping[str, str] = {
    Stage.START: "starting",
    Stage.FETCH: "fetching the model and the text",
    Stage.VALIDATE: "checking the text",
    Stage.TOKENIZE: "counting tokens",
    Stage.MODEL: "loading the model and evaluating it before training",
    Stage.TRAIN: "training",
    Stage.EVALUATE: "evaluating the adapter on held-out text",
    Stage.EXPORT: "writing the adapter",
    Stage.PUBLISH: "publishing and verifying",
}
"""What a stage does, for people."""


@dataclass
class RunScreen:
    """Shows one run on a console."""

    console: Console
    shown_paths: Mapping[str, str] = field(default_factory=dict)
    """Address in a message to the path that a person gave."""
    _live: Live | None = None
    _said: str = ""

    @contextmanager
    def live(self) -> Iterator["RunScreen"]:
        """Show progress while entered; on a terminal in place."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(
            console=self.console, transient=True, refresh_per_second=REFRESHES_PER_SECOND
        ) as live:
            self._live = live
            yield self
            self._live = None

    def say(self, text: str) -> None:
        """Print one line above the live one."""
        self.console.print(escape(self.replace_addresses(text)), soft_wrap=True)

    def replace_addresses(self, text: str) -> str:
        """Return a message with the paths that a person gave instead of the plan's addresses."""
        for uri, path in self.shown_paths.items():
            text = text.replace(uri, path)
        return text

    def show(self, body: Mapping[str, Any], newest: ProgressStatus | None) -> None:
        """Show where the resource is; `newest` is what its trainer reported last."""
        status = parse_status(body.get("status"))
        # A resumed trainer counts from the start again, and status keeps how far the run is.
        status = status.model_copy(update={"progress": newest})
        if self._live is not None:
            self._live.update(self._draw(status))
            return
        line = self.replace_addresses(describe(status))
        if line != self._said:
            self._said = line
            self.console.print(f"  {escape(line)}", soft_wrap=True)

    def _draw(self, status: LanguageFinetuneStatus) -> RenderableType:
        progress = status.progress or ProgressStatus()
        table = Table.grid(padding=(0, 1))
        table.add_row(
            ProgressBar(total=100, completed=progress.percent or 0, width=BAR_WIDTH),
            f"{progress.percent or 0} %",
            Text(describe(status)),
        )
        return Group(table)


def describe(status: LanguageFinetuneStatus) -> str:
    """Return where a run is, in one line."""
    progress = status.progress
    if progress is None or progress.stage is None or status.phase != "Running":
        return status.phase or "Pending"
    parts = [STAGES.get(progress.stage, progress.stage)]
    if progress.waiting_for:
        parts.append(f"waiting for {progress.waiting_for}")
    if progress.step is not None and progress.stage == Stage.TRAIN:
        parts.append(f"step {progress.step:,} of {progress.total_steps or 0:,}")
        parts += [f"loss {progress.loss}"] if progress.loss else []
        parts += [f"held-out loss {progress.eval_loss}"] if progress.eval_loss else []
    if progress.eta_seconds:
        parts.append(f"{format_seconds(progress.eta_seconds)} left")
    return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """Return a time as people say it: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


# --- The end --------------------------------------------------------------------------------------


def show_end(
    screen: RunScreen, *, end: RunEnd, body: Mapping[str, Any], state: StateFolder, seconds: float
) -> None:
    """Say how the run ended and what to do next."""
    status = parse_status(body.get("status"))
    lines = {
        RunEnd.COMPLETE: _complete,
        RunEnd.FAILED: _failed,
        RunEnd.REFUSED: _failed,
        RunEnd.INTERRUPTED: _interrupted,
    }[end](status, state, seconds)
    for line in lines:
        screen.say(line)


def _complete(status: LanguageFinetuneStatus, state: StateFolder, seconds: float) -> Iterator[str]:
    if status.output is None:
        # mode: Plan ends here.
        yield status.message or ""
        yield f"The plan with every parameter and its reason is in {state.status_file}."
        return
    yield from describe_benefit(status)
    if status.warnings:
        count = len(status.warnings)
        yield f"{count} warning{'s' if count > 1 else ''}; the report and {state.status_file} name them."
    folder = local_path(status.output.uri)
    yield ""
    yield f"Time      {format_seconds(seconds)}"
    yield f"Adapter   {folder}"
    yield f"Report    {folder}/report.html"
    yield f"Status    {state.status_file}"


def describe_benefit(status: LanguageFinetuneStatus) -> Iterator[str]:
    """Yield what the adapter gained on held-out text, with a scale for the figures."""
    result = status.evaluation[0] if status.evaluation else None
    if result is None:
        yield "The adapter is trained. Nothing was held out, so nothing says what it gained."
        return
    yield compare_losses(result)
    yield (
        f"Held-out loss {result.base_loss} → {result.adapter_loss} nats per token, "
        f"{result.base_bits_per_byte} → {result.adapter_bits_per_byte} bits per byte, on "
        f"{result.examples:,} examples that it did not train on (lower is better)."
    )


def compare_losses(result: LanguageEvaluation) -> str:
    """Return in one sentence whether held-out text became likelier, and by how much."""
    return describe_gain(
        base=float(result.base_bits_per_byte or 0),
        adapter=float(result.adapter_bits_per_byte or 0),
        examples=result.examples or 0,
    )


def _failed(status: LanguageFinetuneStatus, state: StateFolder, seconds: float) -> Iterator[str]:
    del seconds
    yield status.message or "The run failed."
    yield f"The log is {state.log_file}; the same command tries again."


def _interrupted(
    status: LanguageFinetuneStatus, state: StateFolder, seconds: float
) -> Iterator[str]:
    del state, seconds
    checkpoint = status.checkpoint
    place = f"at step {checkpoint.step:,}" if checkpoint is not None else "from its beginning"
    yield f"Stopped. The same command goes on {place}."


def local_path(uri: str) -> str:
    """Return the path that a file:// address names, and any other address as it is."""
    if not uri.startswith("file://"):
        return uri.rstrip("/")
    return unquote(urlparse(uri).path).rstrip("/")
