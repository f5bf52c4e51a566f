"""How a run ends, in words and codes: plans that are refused, faults that were not expected."""

import errno
import hashlib
import json
import logging
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import Outcome, Stage
from finetune_api.plan import TrainingPlan
from finetune_trainer.__main__ import conclude, write_outcome
from finetune_trainer.errors import AccessDenied, DataInvalid, PlanInvalid, TrainerError
from finetune_trainer.inputs.plan import check_supported, load_plan, parse_plan
from finetune_trainer.pod.graceful_shutdown import GracefulShutdown
from finetune_trainer.pod.logs import JsonLines
from finetune_trainer.pod.progress import Progress
from finetune_trainer.tasks.pipeline import make_empty
from tests.unit_trainer.tiny import build_plan

SWAHILI = {"tag": "sw", "uri": "s3://corpora/sw/"}


def end_of(fault: BaseException) -> Outcome:
    def work() -> Outcome:
        raise fault

    return conclude(work, stage=lambda: Stage.TRAIN, plan_hash=lambda: "ab" * 32)


def test_a_known_fault_keeps_its_code_reason_and_sentence() -> None:
    outcome = end_of(AccessDenied("The key was refused; correct it.", reason="InvalidAccessKeyId"))
    assert outcome == Outcome(
        exit_code=77,
        reason="InvalidAccessKeyId",
        stage=Stage.TRAIN,
        message="The key was refused; correct it.",
        plan_hash="ab" * 32,
    )


def test_a_bug_is_told_with_its_type_and_place() -> None:
    outcome = end_of(ZeroDivisionError("division by zero"))
    assert (outcome.exit_code, outcome.reason) == (70, "Bug")
    assert outcome.message.startswith(
        "The trainer met a fault it does not know: ZeroDivisionError: division by zero"
        " (test_pipeline_end.py:"
    )


def test_a_full_disk_is_no_bug() -> None:
    outcome = end_of(OSError(errno.ENOSPC, "No space left on device", "/work/adapter/x"))
    assert (outcome.exit_code, outcome.reason) == (78, "DiskFull")
    assert outcome.message == (
        "The scratch volume is full (/work/adapter/x): raise the pod's ephemeral-storage in"
        " resources.limits and apply again."
    )


@pytest.mark.parametrize(
    "letter", ["a", "€", "😀", '"', "\x01"], ids=["a", "3", "4", "quote", "control"]
)
def test_a_message_without_end_still_fits_the_kubelet(letter: str, tmp_path: Path) -> None:
    outcome = end_of(PlanInvalid(letter * 5000))
    write_outcome(outcome, {"FINETUNE_TERMINATION_PATH": str(tmp_path / "log")})
    content = (tmp_path / "log").read_bytes()
    assert len(content) <= 4096
    written = Outcome.from_termination_message(content.decode())
    assert written is not None
    assert (written.exit_code, written.message[-2:]) == (64, f"{letter}…")


def test_half_a_character_in_a_message_is_written_as_its_number() -> None:
    # pytest keeps log lines for its report and sends them on as UTF-8.
    logging.disable()
    outcome = end_of(DataInvalid("The columns are \ud800: expected text."))
    logging.disable(logging.NOTSET)
    assert (outcome.exit_code, outcome.message) == (65, "The columns are \\ud800: expected text.")


def test_an_outcome_that_cannot_be_written_is_in_the_log(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    outcome = end_of(PlanInvalid("x"))
    write_outcome(outcome, {"FINETUNE_TERMINATION_PATH": str(tmp_path / "no" / "log")})
    assert caplog.records[-1].__dict__["outcome"] == outcome.to_termination_message()


def in_stage(stage: Stage) -> tuple[GracefulShutdown, list[TrainerError]]:
    progress = Progress(None)
    left: list[TrainerError] = []
    progress.enter(stage)
    return GracefulShutdown(lambda: progress.stage, leave=left.append), left


@pytest.mark.parametrize("stage", [Stage.START, Stage.FETCH, Stage.MODEL])
def test_before_training_a_signal_ends_the_run_at_once(stage: Stage) -> None:
    shutdown, left = in_stage(stage)
    shutdown.on_sigterm(15, None)
    [asked] = left
    assert asked.message == (
        f"The pod was asked to go in the stage {stage.value}, before the first step: the next attempt"
        " starts again."
    )


def test_a_second_signal_changes_nothing() -> None:
    shutdown, left = in_stage(Stage.FETCH)
    shutdown.on_sigterm(15, None)
    shutdown.on_sigterm(15, None)
    assert len(left) == 1


@pytest.mark.parametrize("stage", [Stage.TRAIN, Stage.PUBLISH])
def test_from_training_on_a_signal_is_only_remembered(stage: Stage) -> None:
    shutdown, left = in_stage(stage)
    shutdown.on_sigterm(15, None)
    assert shutdown.is_stopping()
    assert left == []


def test_what_an_earlier_run_left_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "chat_template.jinja").write_text("of another model")
    assert list(make_empty(tmp_path / "adapter").iterdir()) == []


# --- The plan -----------------------------------------------------------------------------------


def refusal_of(plan: TrainingPlan) -> str:
    with pytest.raises(PlanInvalid) as caught:
        check_supported(plan)
    return caught.value.message


def test_a_plan_that_nobody_touched_is_read(tmp_path: Path) -> None:
    plan = build_plan()
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_plan(path, expected_sha256=expected) == plan
    assert load_plan(path, expected_sha256="") == plan


def test_another_file_than_the_jobs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(build_plan().to_json())
    with pytest.raises(PlanInvalid) as caught:
        load_plan(path, expected_sha256="0" * 64)
    assert caught.value.reason == "PlanTampered"


def test_a_plan_whose_numbers_were_changed_is_refused() -> None:
    content = json.loads(build_plan().to_json())
    content["training"]["learningRate"] = 0.5
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(json.dumps(content).encode())
    assert caught.value.message.startswith("The plan of ml/tiny says its hash is ")
    assert caught.value.reason == "PlanTampered"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("perDeviceTrainBatchSize", 0),
        ("numTrainEpochs", 0),
        ("learningRate", "inf"),
        ("maxSeqLength", 1),
        ("warmupRatio", 1),
        ("evalSteps", 0),
    ],
)
def test_a_number_that_no_run_can_have_is_refused_with_its_place(field: str, value: object) -> None:
    content = json.loads(build_plan().to_json())
    content["training"][field] = value
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(json.dumps(content).encode())
    assert caught.value.message.startswith(f"The plan is malformed at training.{field}: ")


@pytest.mark.parametrize(
    ("content", "where"),
    [
        pytest.param(b"", "the document", id="empty"),
        pytest.param(b'{"a":', "the document", id="cut"),
        pytest.param(b'{"schemaVersion": 2}', "schemaVersion", id="of another release"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_place(content: bytes, where: str) -> None:
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(content)
    assert caught.value.message.startswith(f"The plan is malformed at {where}: ")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"method": "Full"}, "method Full (LoRA and QLoRA are)", id="full"),
        pytest.param(
            {"method": "QLoRA"}, "method QLoRA without a GPU (LoRA is)", id="qlora on cpu"
        ),
        pytest.param(
            {"resources__gpus": 2, "resources__nodes": 2},
            "2 nodes (one with any number of GPUs is)",
            id="nodes",
        ),
        pytest.param(
            {"output__formats": ["Adapter", "GGUF"]}, "output format GGUF (Adapter is)", id="format"
        ),
        pytest.param({"training__packing": True}, "parameters.packing (false is)", id="packing"),
        pytest.param({"datasets": []}, "0 datasets (one is)", id="no dataset"),
        pytest.param(
            {"datasets": [SWAHILI, SWAHILI | {"tag": "hi"}]}, "2 datasets (one is)", id="languages"
        ),
        pytest.param(
            {"model": {"uri": "s3://models/tiny", "revision": "v2"}},
            "a revision of s3://models/tiny (one of a model at hf:// is)",
            id="revision",
        ),
        pytest.param(
            {"datasets": [SWAHILI | {"split": "dev"}]},
            "split dev of s3://corpora/sw/ (one of a dataset at hf:// is)",
            id="split",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], problem: str) -> None:
    assert refusal_of(build_plan(**changes)) == (
        f"The plan asks for what is not supported yet: {problem}. Change the resource and apply again."
    )


def log_one(message: str, *args: str, **fields: int) -> str:
    """Return the line of one record, past pytest, which keeps lines and sends them on as UTF-8."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, args, None)
    vars(record).update(fields)
    handler.handle(record)
    return stream.getvalue()


def test_a_log_line_is_one_json_object_with_its_fields() -> None:
    written = log_one("Two\nlines, %s", "ñ", step=3)
    line = json.loads(written)
    line.pop("time")
    assert line == {"level": "info", "logger": "x", "message": "Two\nlines, ñ", "step": 3}
    assert written.count("\n") == 1


def test_half_a_character_costs_no_log_line() -> None:
    assert json.loads(log_one("Columns: \ud800").encode())["message"] == "Columns: \ud800"
