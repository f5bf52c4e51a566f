"""A run on this machine, decided as in a cluster: the same plan, the same status, the same end."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import wire
from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.outcome import Evaluation, Outcome, Published, RunSummary, Stage
from finetune_api.progress import Metric, ProgressReport, TrainerStatus
from finetune_cli.local_run.begin import begin_resource, build_metadata
from finetune_cli.local_run.command import build_context
from finetune_cli.local_run.local_inputs import ClaimedTexts, build_local_spec
from finetune_cli.local_run.machine import Machine
from finetune_cli.local_run.progress_receiver import ProgressReceiver
from finetune_cli.local_run.run_loop import Interruption, LocalRun, RunEnd
from finetune_cli.local_run.state_folder import StateFolder
from finetune_operator.decide.status.build_status import parse_status
from tests.unit_cli.local_run.test_machine import FakeProcess

CASES = Path(__file__).parents[2] / "cases" / "operator"
SPEC = {
    "model": {"uri": "hf://org/base"},
    "languages": [
        {
            "tag": "sw",
            "dataset": {"uri": "s3://corpora/sw/"},
            "traits": {"corpus": "Small", "documents": "Short", "tokenDensity": "Dense"},
        }
    ],
    "resources": {"gpus": 0},
    "output": {"uri": "s3://adapters/"},
    "updatePolicy": "Recreate",
    "backoffLimit": 0,
}


def build_outcome(exit_code: int = 0, **changes: Any) -> Outcome:
    published = Published(
        uri="file:///out/default/swahili/runs/1-abc/",
        manifest_sha256="0" * 64,
        size_bytes=10,
        files=3,
    )
    evaluation = Evaluation(
        base_loss=3.4022,
        adapter_loss=3.0551,
        base_bits_per_byte=3.0372,
        adapter_bits_per_byte=2.7274,
        examples=40,
    )
    done = exit_code == 0
    values = {
        "exit_code": exit_code,
        "reason": "Done" if done else "DataInvalid",
        "stage": Stage.PUBLISH,
        "message": "Said by the trainer.",
        "published": published if done else None,
        "evaluation": evaluation if done else None,
        "summary": RunSummary(steps=16, total_steps=16, epochs=2.0) if done else None,
    }
    return Outcome(**{**values, **changes})


@dataclass
class Trainers:
    """Trainers that end as a test wants; each is one line of `script`."""

    script: list[Outcome | None]
    """The outcome with which the next trainer ends; None lets it run until it is stopped."""
    jobs: list[Mapping[str, Any]] = field(default_factory=list)
    processes: list[FakeProcess] = field(default_factory=list)

    def start(self, job: Mapping[str, Any], pod_uid: str) -> FakeProcess:
        self.jobs.append(job)
        outcome = self.script.pop(0)
        process = StoppableProcess()
        if outcome is not None:
            plan_hash = job["metadata"]["annotations"][wire.ANNOTATION_PLAN_HASH]
            reported = outcome.model_copy(update={"plan_hash": plan_hash})
            process = StoppableProcess(outcome.exit_code, reported.to_termination_message())
        self.processes.append(process)
        return process


class StoppableProcess(FakeProcess):
    """Saves a checkpoint and ends when it is asked to."""

    def stop(self) -> None:
        super().stop()
        checkpoint = SavedCheckpoint(step=5, uri="file:///out/step-5/", time="2026-01-01T12:00:00Z")
        outcome = build_outcome(
            wire.ExitCode.INTERRUPTED, reason="Interrupted", checkpoint=checkpoint
        )
        self.code, self.message = outcome.exit_code, outcome.to_termination_message()


@dataclass
class Bench:
    """A folder in which runs are made one after the other."""

    folder: Path
    seen: list[str] = field(default_factory=list)

    @property
    def state(self) -> StateFolder:
        return StateFolder(path=self.folder, work=self.folder)

    def run(
        self,
        trainers: Trainers,
        *,
        spec: Mapping[str, Any] = SPEC,
        on_look: Callable[[LocalRun, Interruption], None] = lambda run, asked: None,
    ) -> tuple[RunEnd, Any]:
        metadata = build_metadata({"name": "swahili"}, place="here")
        body = begin_resource(
            self.state.load(), metadata=metadata, spec=json.loads(json.dumps(spec))
        )
        with self._build(body, trainers) as run:
            interruption = Interruption()

            def show(shown: Mapping[str, Any], newest: object) -> None:
                phase = shown["status"].get("phase")
                if not self.seen or self.seen[-1] != phase:
                    self.seen.append(phase)
                on_look(run, interruption)

            end = run.run(interruption=interruption, show=show)
        return end, self.state.load()

    @contextmanager
    def _build(self, body: dict[str, Any], trainers: Trainers) -> Iterator[LocalRun]:
        with ProgressReceiver(self.folder) as receiver:
            self.receiver = receiver
            yield LocalRun(
                body,
                state=self.state,
                machine=Machine(start=trainers.start, node="here", now=now),
                receiver=receiver,
                plans={},
                context=build_context(status_url=receiver.url),
                now=now,
            )


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_run_ends_with_the_status_of_a_cluster(bench: Bench) -> None:
    trainers = Trainers([build_outcome()])
    end, saved = bench.run(trainers)
    assert end is RunEnd.COMPLETE
    assert bench.seen[-1] == "Complete"
    status = saved["status"]
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Accepted": "True",
        "Resolved": "True",
        "JobCreated": "True",
        "Running": "False",
        "AdapterUploaded": "True",
        "Complete": "True",
    }
    assert status["message"] == (
        "The adapter is published at file:///out/default/swahili/runs/1-abc/."
    )
    assert status["progress"]["percent"] == 100
    assert status["attempts"][0]["node"] == "here"
    assert trainers.jobs[0]["metadata"]["name"] == "swahili-1-train-1"


def test_a_refused_plan_ends_at_once_and_starts_nothing(bench: Bench) -> None:
    unknown = {**SPEC, "languages": [{"tag": "swahili", "dataset": {"uri": "s3://corpora/x/"}}]}
    trainers = Trainers([])
    end, saved = bench.run(trainers, spec=unknown)
    assert (end, trainers.jobs) == (RunEnd.REFUSED, [])
    assert parse_status(saved["status"]).phase == "Stalled"


def test_invalid_data_fails_the_run_with_the_trainers_own_words(bench: Bench) -> None:
    end, saved = bench.run(Trainers([build_outcome(wire.ExitCode.DATA_INVALID)]))
    assert end is RunEnd.FAILED
    assert saved["status"]["message"] == "Said by the trainer."


def test_the_same_command_tries_a_failed_run_again(bench: Bench) -> None:
    bench.run(Trainers([build_outcome(wire.ExitCode.DATA_INVALID)]))
    end, saved = bench.run(Trainers([build_outcome()]))
    assert end is RunEnd.COMPLETE
    assert saved["metadata"]["generation"] == 1


def test_an_interrupted_run_saves_a_checkpoint_and_the_same_command_goes_on(bench: Bench) -> None:
    def interrupt(run: LocalRun, asked: Interruption) -> None:
        asked.is_asked = run.body["status"].get("phase") == "Running" or asked.is_asked

    end, saved = bench.run(Trainers([None]), on_look=interrupt)
    assert end is RunEnd.INTERRUPTED
    assert "suspend" not in saved["spec"]
    assert saved["status"]["checkpoint"]["step"] == 5
    plan_before = saved["status"]["plan"]["hash"]
    trainers = Trainers([build_outcome()])
    end, saved = bench.run(trainers)
    assert end is RunEnd.COMPLETE
    assert saved["status"]["plan"]["hash"] == plan_before
    created = next(one for one in saved["status"]["conditions"] if one["type"] == "JobCreated")
    assert (created["reason"], created["message"]) == (
        "Resumed",
        "Job swahili-1-train-1 was created again to go on after the suspension.",
    )


def test_a_second_signal_ends_the_trainer_at_once(bench: Bench) -> None:
    def hurry(run: LocalRun, asked: Interruption) -> None:
        asked.is_urgent = run.body["status"].get("phase") == "Running"

    trainers = Trainers([None])
    end, _ = bench.run(trainers, on_look=hurry)
    assert end is RunEnd.INTERRUPTED
    assert trainers.processes[-1].signals == ["kill"]


def test_a_changed_parameter_begins_the_next_run(bench: Bench) -> None:
    bench.run(Trainers([build_outcome()]))
    changed = {**SPEC, "parameters": {"learningRate": 0.001}}
    trainers = Trainers([build_outcome()])
    end, saved = bench.run(trainers, spec=changed)
    assert end is RunEnd.COMPLETE
    assert (saved["status"]["run"], saved["metadata"]["generation"]) == (2, 2)
    assert trainers.jobs[0]["metadata"]["name"] == "swahili-2-train-1"


def test_progress_reaches_the_status_and_never_goes_back(bench: Bench) -> None:
    def report(run: LocalRun, asked: Interruption) -> None:
        if run.body["status"].get("phase") != "Running":
            return
        for percent in (40, 30):
            metrics = (Metric(name="stage", value="Train"), Metric(name="step", value="4"))
            reported = ProgressReport(
                trainer_status=TrainerStatus(progress_percentage=percent, metrics=metrics)
            )
            token = bench.receiver.token_file.read_text()
            bench.receiver.receive(
                reported.model_dump_json(by_alias=True).encode(),
                path="/namespaces/default/languagefinetunes/swahili/runs/1/progress",
                authorization=f"Bearer {token}",
            )
            run._note_progress()
            shown.append(run.body["status"]["progress"]["percent"])
        asked.is_urgent = True

    shown: list[int] = []
    bench.run(Trainers([None]), on_look=report)
    assert shown == [40, 40]


@pytest.mark.parametrize("name", ["new", "new-on-cpu", "new-everything-declared", "new-long-name"])
def test_the_plan_is_the_one_that_the_operator_makes_of_the_same_resource(
    name: str, tmp_path: Path
) -> None:
    case = CASES / name
    body = yaml.safe_load((case / "resource.yaml").read_text())
    trainers = Trainers([None])

    def stop(run: LocalRun, asked: Interruption) -> None:
        asked.is_urgent = bool(trainers.jobs)

    local = build_local_spec(body["spec"], texts=ClaimedTexts({}, {}), gpus=0, has_hub_token=True)
    Bench(tmp_path).run(trainers, spec=local, on_look=stop)
    planned = trainers.jobs[0]["metadata"]["annotations"][wire.ANNOTATION_PLAN_HASH]
    assert planned == json.loads((case / "plan.json").read_text())["hash"]
