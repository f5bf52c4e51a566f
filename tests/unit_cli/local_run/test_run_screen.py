"""What a person reads while a run goes on and when it has ended."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune_api.status import LanguageEvaluation, LanguageFinetuneStatus, ProgressStatus
from finetune_cli.local_run.run_loop import RunEnd
from finetune_cli.local_run.run_screen import (
    RunScreen,
    compare_losses,
    describe,
    format_seconds,
    local_path,
    show_end,
)
from finetune_cli.local_run.state_folder import StateFolder


def progress(**values: Any) -> LanguageFinetuneStatus:
    return LanguageFinetuneStatus(phase="Running", progress=ProgressStatus(**values))


def evaluation(base: str, adapter: str, *, examples: int = 100) -> LanguageEvaluation:
    return LanguageEvaluation(
        tag="*",
        base_loss="3.4022",
        adapter_loss="3.0551",
        base_bits_per_byte=base,
        adapter_bits_per_byte=adapter,
        examples=examples,
    )


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (LanguageFinetuneStatus(phase="Measuring"), "Measuring"),
        (LanguageFinetuneStatus(), "Pending"),
        (progress(stage="Fetch"), "fetching the model and the text"),
        (
            progress(stage="Fetch", waiting_for="the hub"),
            "fetching the model and the text, waiting for the hub",
        ),
        (
            progress(stage="Train", step=4, total_steps=1200, loss="2.5", eta_seconds=200),
            "training, step 4 of 1,200, loss 2.5, 3 min 20 s left",
        ),
        (
            progress(stage="Publish", step=4, total_steps=4, loss="2.5"),
            "publishing and verifying",
        ),
        (progress(stage="Unheard"), "Unheard"),
    ],
)
def test_a_line_says_where_the_run_is(status: LanguageFinetuneStatus, line: str) -> None:
    assert describe(status) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min")],
)
def test_times_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (
            evaluation("3.0372", "2.7274"),
            "The adapter learned: it needs 10% fewer bits for text that it did not see.",
        ),
        (
            evaluation("3.0372", "2.7274", examples=3),
            (
                "The adapter learned: it needs 10% fewer bits for text that it did not see. 3 examples are "
                "few, so take the figure as a rough one."
            ),
        ),
        (
            evaluation("3.0372", "3.0296"),
            (
                "The adapter changed next to nothing: 0.3% fewer bits per byte on held-out text. A higher "
                "learning rate (policy Evidence sets one), more steps or more text would help."
            ),
        ),
        (
            evaluation("3.0", "3.3"),
            (
                "The adapter is worse than the base model on held-out text: 10.0% more bits per byte. "
                "A lower learning rate, fewer epochs or more text would help."
            ),
        ),
    ],
    ids=["gain", "few-examples", "nothing", "worse"],
)
def test_one_sentence_says_what_the_adapter_gained(
    result: LanguageEvaluation, sentence: str
) -> None:
    assert compare_losses(result) == sentence


def test_addresses_in_messages_become_the_paths_that_a_person_gave() -> None:
    screen = RunScreen(Console(), {"pvc://text-sw-1/text/a.csv": "texts/a.csv"})
    reported = screen.replace_addresses("pvc://text-sw-1/text/a.csv:3 has no answer.")
    assert reported == "texts/a.csv:3 has no answer."


def test_a_line_that_says_nothing_new_is_not_printed_again() -> None:
    out = io.StringIO()
    screen = RunScreen(Console(file=out))
    with screen.live():
        for step in (1, 1, 2):
            newest = ProgressStatus(stage="Train", step=step, total_steps=9)
            screen.show({"status": {"phase": "Running"}}, newest)
    assert out.getvalue() == "  training, step 1 of 9\n  training, step 2 of 9\n"


def test_a_terminal_shows_one_live_line() -> None:
    out = io.StringIO()
    screen = RunScreen(Console(file=out, force_terminal=True, width=80))
    with screen.live():
        newest = ProgressStatus(stage="Train", step=1, total_steps=9, percent=12)
        screen.show({"status": {"phase": "Running"}}, newest)
    assert "12 % training, step 1 of 9" in out.getvalue()


DONE = {
    "phase": "Complete",
    "warnings": [{"id": "a", "severity": "warn", "message": "b"}],
    "evaluation": [evaluation("3.0372", "2.7274").model_dump(by_alias=True)],
    "output": {
        "uri": "file:///out/a%20b/runs/1-abc/",
        "manifestSha256": "0",
        "sizeBytes": 1,
        "files": 1,
    },
}
SCREENS = {
    RunEnd.COMPLETE: """\
The adapter learned: it needs 10% fewer bits for text that it did not see.
Held-out loss 3.4022 → 3.0551 nats per token, 3.0372 → 2.7274 bits per byte, on 100 examples that it \
did not train on (lower is better).
1 warning; the report and /state/status.yaml name them.

Time      1 min 05 s
Adapter   /out/a b/runs/1-abc
Report    /out/a b/runs/1-abc/report.html
Status    /state/status.yaml
""",
    RunEnd.FAILED: """\
What is wrong.
The log is /state/trainer.log; the same command tries again.
""",
    RunEnd.REFUSED: """\
What is wrong.
The log is /state/trainer.log; the same command tries again.
""",
    RunEnd.INTERRUPTED: "Stopped. The same command goes on at step 5.\n",
}


@pytest.mark.parametrize("end", RunEnd, ids=lambda end: end.name.lower())
def test_the_end_says_what_came_of_it_and_what_to_do(end: RunEnd) -> None:
    checkpoint = {"step": 5, "uri": "file:///out/step-5/", "time": "2026-01-01T12:00:00Z"}
    status = (
        DONE if end is RunEnd.COMPLETE else {"message": "What is wrong.", "checkpoint": checkpoint}
    )
    out = io.StringIO()
    show_end(
        RunScreen(Console(file=out, width=200)),
        end=end,
        body={"status": status},
        state=StateFolder(path=Path("/state"), work=Path("/work")),
        seconds=65,
    )
    assert out.getvalue() == SCREENS[end]


def test_an_address_of_a_store_stays_as_it_is() -> None:
    assert local_path("s3://adapters/x/") == "s3://adapters/x"
