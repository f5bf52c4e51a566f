"""`python -m finetune_trainer measure` as the Measure pod starts it: a real S3, a real tokenizer."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api import wire
from finetune_api.measure_plan import MeasurePlan
from finetune_api.outcome import Outcome, Stage
from finetune_trainer.__main__ import conclude
from finetune_trainer.pod.graceful_shutdown import GracefulShutdown
from finetune_trainer.pod.pod import Pod
from finetune_trainer.pod.progress import Progress
from finetune_trainer.tasks.measure import MeasuredText, MeasurePlace, measure
from tests.unit_trainer.conftest import Bucket, make_bucket
from tests.unit_trainer.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedFS
from tests.unit_trainer.tokenizers_of_tests import CHATML, NO_SYSTEM, build_tokenizer

pytestmark = pytest.mark.slow

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 500,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
}
LOADED = ["torch", "transformers", "unsloth", "datasets"]
RUN_AND_TELL = (
    "import os, pathlib, sys; from finetune_trainer.__main__ import main; code = main();"
    f" loaded = sorted(set({LOADED}) & set(sys.modules));"
    " pathlib.Path(os.environ['LOADED']).write_text(repr(loaded)); sys.exit(code)"
)
"""The entry point, and then which heavy libraries it has imported."""


def chats(count: int) -> str:
    return "".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"Habari ya {number}?"},
                    {"role": "assistant", "content": f"Nzuri sana, siku ya {number} njema."},
                ]
            }
        )
        + "\n"
        for number in range(count)
    )


@dataclass
class MeasurePod:
    """A place where the trainer measures as a process of its own."""

    bucket: Bucket
    folder: Path

    def plan(self, *, text: str = "text/", **changes: Any) -> MeasurePlan:
        uri = f"s3://{self.bucket.name}"
        whole: dict[str, Any] = {
            "identity": {"namespace": "ml", "name": "swahili", "uid": "u-1", "run": 1},
            "model": {"uri": f"{uri}/model", "credentials": "MODEL"},
            "datasets": [{"tag": "sw", "uri": f"{uri}/{text}", "credentials": "DATASET_0"}],
            "stage": "Instruction",
            "output": {"uri": f"{uri}/adapters", "credentials": "OUTPUT"},
        }
        return MeasurePlan.model_validate(whole | changes).with_hash()

    def environ(self) -> dict[str, str]:
        return {
            f"FINETUNE_{use}_{name}": value
            for use in ("MODEL", "DATASET_0", "OUTPUT")
            for name, value in (
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
                ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
                ("AWS_ENDPOINT_URL_S3", self.bucket.endpoint),
            )
        }

    def run(self, plan: MeasurePlan) -> Outcome:
        """Measure to the end, in this process."""
        progress = Progress(None)
        calm = GracefulShutdown(lambda: progress.stage, leave=lambda _: None)
        stop = Pod(self.environ(), self.folder / "work", calm)
        return conclude(
            lambda: measure(plan, pod=stop, progress=progress),
            stage=lambda: progress.stage,
            plan_hash=lambda: plan.hash,
        )

    def start(self, plan: MeasurePlan, *arguments: str) -> Outcome:
        """Measure to the end in a process of its own, as the Job does."""
        content = plan.to_json().encode()
        (self.folder / "measure.json").write_bytes(content)
        places = {
            wire.ENV_PLAN_PATH: str(self.folder / "measure.json"),
            wire.ENV_PLAN_SHA256: hashlib.sha256(content).hexdigest(),
            wire.ENV_WORK_DIR: str(self.folder / "work"),
            wire.ENV_TERMINATION_PATH: str(self.folder / "outcome.json"),
            "LOADED": str(self.folder / "loaded"),
        }
        done = subprocess.run(
            [sys.executable, "-c", RUN_AND_TELL, *arguments],
            env=os.environ | self.environ() | places,
            stdout=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        outcome = Outcome.from_termination_message((self.folder / "outcome.json").read_text())
        assert outcome is not None
        assert done.returncode == outcome.exit_code
        return outcome

    def profile(self, plan: MeasurePlan) -> MeasuredText:
        read = self.bucket.store.read(MeasurePlace.of(plan).profile)
        assert read is not None
        return MeasuredText.model_validate_json(read[0])


@pytest.fixture
def pod(seaweed: SeaweedFS, tmp_path: Path) -> MeasurePod:
    bucket = make_bucket(seaweed.endpoint)
    put_model(bucket, tmp_path / "model", template=CHATML)
    bucket.put("text/chats.jsonl", chats(60))
    return MeasurePod(bucket, tmp_path)


TAKEN = "The text was measured before"
"""Is logged where a cached report is taken."""


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def put_model(bucket: Bucket, folder: Path, *, template: str | None) -> None:
    build_tokenizer(template).save_pretrained(folder)
    for path in folder.iterdir():
        bucket.put(f"model/{path.name}", path.read_bytes())
    bucket.put("model/config.json", json.dumps(CONFIG))
    bucket.put("model/model.safetensors", b"weights that are not read")


def test_a_text_is_measured_without_torch_and_without_weights(pod: MeasurePod) -> None:
    plan = pod.plan()
    outcome = pod.start(plan, *wire.MEASURE_COMMAND)
    assert (outcome.exit_code, outcome.reason, outcome.stage) == (0, "Measured", Stage.PUBLISH)
    assert outcome.plan_hash == plan.hash
    assert outcome.profile is not None
    language = outcome.profile.languages[0]
    assert (language.examples, language.validation_examples, language.tag) == (57, 3, "sw")
    assert language.supervised_tokens < language.tokens
    assert outcome.profile.model == {k: v for k, v in CONFIG.items() if k != "torch_dtype"}
    assert (pod.folder / "loaded").read_text() == "[]"
    fetched = sorted(path.name for path in (pod.folder / "work/model").glob("[!.]*"))
    assert fetched == [
        "chat_template.jinja",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_whole_profile_is_in_s3(pod: MeasurePod) -> None:
    plan = pod.plan()
    outcome = pod.run(plan)
    whole = pod.profile(plan)
    assert whole.profile == outcome.profile
    assert whole.languages[0].sha256[:12] == whole.profile.languages[0].content
    assert f"adapters/ml/swahili/profiles/{plan.hash[:8]}/profile.json" in outcome.message


def test_the_same_text_is_not_measured_twice_whatever_it_is_called(
    pod: MeasurePod, caplog: pytest.LogCaptureFixture
) -> None:
    first = pod.run(pod.plan())
    assert TAKEN not in caplog.messages
    pod.bucket.put("copy/chats.jsonl", chats(60))
    plan = pod.plan(text="copy/", identity={"namespace": "ml", "name": "b", "uid": "u-2", "run": 1})
    caplog.clear()
    second = pod.run(plan)
    assert TAKEN in caplog.messages
    assert second.profile == first.profile
    assert (
        pod.profile(plan)
        .languages[0]
        .longest[0]
        .source.startswith(f"s3://{pod.bucket.name}/copy/chats.jsonl line ")
    )


def test_changed_text_and_another_tokenizer_are_measured_anew(
    pod: MeasurePod, caplog: pytest.LogCaptureFixture
) -> None:
    pod.run(pod.plan())
    pod.bucket.put("text/chats.jsonl", chats(61))
    changed = pod.run(pod.plan())
    assert TAKEN not in caplog.messages
    assert changed.profile is not None
    assert changed.profile.languages[0].examples == 58
    put_model(pod.bucket, pod.folder / "other", template=NO_SYSTEM)
    pod.run(pod.plan())
    assert TAKEN not in caplog.messages


def test_a_tokenizer_in_its_older_files_counts_as_the_same_in_tokenizer_json(
    pod: MeasurePod,
) -> None:
    pytest.importorskip("torch")
    whole = pod.run(pod.plan()).profile
    older = pod.folder / "older"
    older.mkdir()
    tokenizer = build_tokenizer(CHATML)
    tokenizer.backend_tokenizer.model.save(str(older))
    special = ["<|im_start|>", "<|im_end|>"]
    config = {"chat_template": CHATML, "eos_token": special[1], "extra_special_tokens": special}
    uri = f"s3://{pod.bucket.name}/older"
    for path in older.iterdir():
        pod.bucket.put(f"older/{path.name}", path.read_bytes())
    pod.bucket.put("older/tokenizer_config.json", json.dumps(config))
    pod.bucket.put("older/config.json", json.dumps(CONFIG | {"model_type": "qwen2"}))
    pod.bucket.put("older/model.safetensors", b"weights that are not read")
    found = pod.run(pod.plan(model={"uri": uri, "credentials": "MODEL"})).profile
    assert whole is not None
    assert found is not None
    assert found.languages[0].tokens == whole.languages[0].tokens
    assert found.languages[0].supervised_tokens == whole.languages[0].supervised_tokens


def test_broken_rows_end_as_training_would_and_every_one_is_named(pod: MeasurePod) -> None:
    rows = chats(30).splitlines()
    for place in range(2, 22, 2):
        rows[place] = '{"messages": []}'
    pod.bucket.put("text/chats.jsonl", "\n".join(rows) + "\n")
    plan = pod.plan()
    outcome = pod.run(plan)
    assert (outcome.exit_code, outcome.reason, outcome.stage) == (65, "MalformedRow", Stage.MEASURE)
    where = MeasurePlace.of(plan).profile.uri
    assert outcome.message.endswith(f"Every line at fault (10) is named in {where}.")
    finding = pod.profile(plan).languages[0].findings[0]
    lines = [int(place.source.rpartition(" ")[2]) for place in finding.places]
    assert (finding.count, lines) == (10, list(range(3, 23, 2)))
    assert outcome.profile is not None
    assert outcome.profile.languages[0].invalid == 10


def test_chats_that_the_template_does_not_take_are_refused_with_their_lines(
    pod: MeasurePod,
) -> None:
    put_model(pod.bucket, pod.folder / "other", template=NO_SYSTEM)
    system = {"role": "system", "content": "Jibu kwa Kiswahili."}
    rows = [json.loads(row) for row in chats(30).splitlines()]
    for place in (4, 9):
        rows[place]["messages"].insert(0, system)
    pod.bucket.put("text/chats.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    plan = pod.plan()
    outcome = pod.run(plan)
    text = f"s3://{pod.bucket.name}/text/chats.jsonl"
    assert (outcome.exit_code, outcome.reason) == (65, "ChatTemplateRefused")
    assert outcome.message == (
        f"{text} line 5 is not taken by the model's chat template (System role not supported) (1 more"
        " rows like it): expected roles and fields that this model knows; change the rows and apply"
        f" again. Every line at fault (2) is named in {MeasurePlace.of(plan).profile.uri}."
    )


def test_chats_without_a_template_are_refused_with_the_remedy(pod: MeasurePod) -> None:
    pod.bucket.store.delete([pod.bucket.at("model/chat_template.jinja")])
    outcome = pod.run(pod.plan())
    assert (outcome.exit_code, outcome.reason) == (65, "ChatTemplateMissing")


def test_too_few_rows_are_refused_with_the_numbers(pod: MeasurePod) -> None:
    pod.bucket.put("text/chats.jsonl", chats(1) * 3)
    outcome = pod.run(pod.plan())
    assert (outcome.exit_code, outcome.reason) == (65, "TooFewExamples")
    assert "What was measured is in s3://" in outcome.message


def test_more_broken_rows_than_are_named_are_counted(pod: MeasurePod) -> None:
    pod.bucket.put("text/chats.jsonl", chats(20) + "{}\n" * 1234)
    plan = pod.plan()
    outcome = pod.run(plan)
    where = MeasurePlace.of(plan).profile.uri
    assert outcome.message.endswith(f"The first 200 of 1,234 lines at fault are named in {where}.")


def test_a_model_without_weights_is_told_before_a_gpu_is_taken(pod: MeasurePod) -> None:
    pod.bucket.store.delete([pod.bucket.at("model/model.safetensors")])
    outcome = pod.run(pod.plan())
    assert (outcome.exit_code, outcome.reason) == (66, "ModelFileMissing")


def test_a_changed_plan_is_refused_before_anything_is_read(pod: MeasurePod) -> None:
    plan = pod.plan().model_copy(update={"completion_only_loss": False})
    outcome = pod.start(plan, *wire.MEASURE_COMMAND)
    assert (outcome.exit_code, outcome.reason, outcome.stage) == (64, "PlanTampered", Stage.START)


def test_an_unknown_command_is_refused_by_name(pod: MeasurePod) -> None:
    outcome = pod.start(pod.plan(), "meassure")
    assert (outcome.exit_code, outcome.reason) == (64, "CommandUnknown")
    assert outcome.message == (
        "The trainer knows no command 'meassure': expected none, to train, 'measure', 'probe'"
        " or 'publish'; operator and trainer must be of one release."
    )


def test_a_broken_cached_report_is_measured_anew(
    pod: MeasurePod, caplog: pytest.LogCaptureFixture
) -> None:
    pod.run(pod.plan())
    cached = [
        stored.location for stored in pod.bucket.store.list(pod.bucket.at("adapters/ml/_profiles/"))
    ]
    assert len(cached) == 1
    pod.bucket.store.put(cached[0], b"{}")
    assert pod.run(pod.plan()).exit_code == 0
    assert TAKEN not in caplog.messages
