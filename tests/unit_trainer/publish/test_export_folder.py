"""The published folder: it loads in plain PEFT, names a public base, and every file can be read."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import CorpusLanguage, Evaluation, RunSummary
from finetune_text.tokenization.stop_token import Stop, Token
from finetune_trainer.errors import DataInvalid, NotFinite, OutputUnwritable
from finetune_trainer.inputs.tokenizer_files import load_context_length, names_folder
from finetune_trainer.publish.model_card import build_card, build_curve, build_report
from finetune_trainer.publish.run_record import DatasetIdentity, RunRecord
from finetune_trainer.steps.step_report import StepReport
from tests.unit_trainer.tiny import build_plan, build_rows, write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DECISION = {
    "name": "learning_rate",
    "value": 0.0002,
    "rule": "LR-1",
    "source": "Rule",
    "message": "Small | corpora learn slowly.",
}


def build_record(**changes: Any) -> RunRecord:
    history = tuple(
        StepReport(
            step=step,
            total_steps=4,
            epoch=step / 4,
            loss=3.0 - step / 2,
            grad_norm=1.0,
            learning_rate=1e-3,
            sequences=8,
            tokens=100,
            supervised_tokens=80,
            micro_batches=1,
            seconds=0.1,
            eval_loss=2.5 if step == 4 else None,
        )
        for step in range(1, 5)
    )
    account = RunRecord(
        plan=build_plan(decisions=[DECISION]),
        base_name="org/tiny",
        model_revision=COMMIT,
        datasets=(DatasetIdentity("no", "s3://corpora/no/", sha256="0" * 64),),
        corpus=(
            CorpusLanguage(
                tag="no",
                examples=80,
                validation_examples=4,
                tokens=1600,
                supervised_tokens=1300,
                characters=5000,
                p50=20,
                p95=38,
                p99=39,
                longest=39,
                truncated=0,
            ),
        ),
        warnings=("2 of 80 rows of no repeat an earlier row.",),
        evaluation=Evaluation(
            base_loss=5.5,
            adapter_loss=2.5,
            base_bits_per_byte=3.1,
            adapter_bits_per_byte=1.4,
            examples=4,
        ),
        summary=RunSummary(steps=4, total_steps=4, epochs=1.0, trainable_parameters=1234),
        history=history,
        environment={"image": "registry/trainer@sha256:1", "libraries": {"torch": "2"}},
    )
    return replace(account, **changes)


def test_the_card_says_what_it_is_how_good_it_is_and_how_it_is_loaded() -> None:
    card = build_card(build_record())
    assert card.startswith(
        '---\nlibrary_name: peft\nbase_model: org/tiny\nlanguage:\n- "sw"\ntags:\n- lora\n---\n'
    )
    assert "| loss, nats per supervised token | 5.5000 | 2.5000 |" in card
    assert f'from_pretrained("org/tiny", revision="{COMMIT}")' in card
    assert "| learning_rate | 0.0002 | Rule LR-1 | Small \\| corpora learn slowly. |" in card
    assert "> 2 of 80 rows of no repeat an earlier row." in card


def test_the_card_of_a_model_from_s3_names_no_hub() -> None:
    card = build_card(build_record(base_name="s3://models/tiny"))
    assert "base_model" not in card
    assert "fetch s3://models/tiny first" in card
    assert f"adapter for s3://models/tiny with the content SHA-256 {COMMIT}, trained on sw" in card
    assert "revision=" not in card


def test_the_report_is_one_file_that_needs_nothing_else() -> None:
    report = build_report(build_record())
    assert "<svg" in report
    assert report.count("<polyline") == 2
    assert "src=" not in report
    assert "href=" not in report


def test_the_card_says_which_text_was_read_and_which_state_is_published() -> None:
    summary = RunSummary(
        steps=4,
        total_steps=4,
        epochs=1.0,
        best_eval_loss=2.5,
        best_step=3,
        published_step=3,
        tokens=400,
        train_seconds=2.0,
        trainable_parameters=1234,
        attention="sdpa",
    )
    card = build_card(build_record(summary=summary))
    assert f"| no | s3://corpora/no/ (SHA-256 {'0' * 64}) | 80 | 4 |" in card
    assert (
        "4 of 4 steps, 1.00 passes, 400 tokens in 2 s with sdpa attention; 1,234 parameters were"
        " trained. Lowest held-out loss: 2.5000 at step 3. The adapter is that of step 3. "
    ) in card


def test_values_stand_as_people_write_them_and_an_override_is_named_once() -> None:
    modules = DECISION | {"name": "target_modules", "value": ["q_proj", "v_proj"]}
    override = DECISION | {"name": "optimizer", "value": "AdamW", "rule": "OVERRIDE"}
    plan = build_plan(decisions=[modules, override | {"source": "Override"}])
    card = build_card(replace(build_record(), plan=plan))
    assert "| target_modules | q_proj, v_proj | Rule LR-1 |" in card
    assert "| optimizer | AdamW | Override |" in card


def test_a_run_of_one_step_and_one_evaluation_still_shows_its_points() -> None:
    account = build_record()
    curve = build_curve(replace(account, history=account.history[-1:]))
    # The step, the base model and the evaluation after it.
    assert curve.count("<circle") == 3


def test_the_report_says_how_good_it_is_and_what_to_know() -> None:
    report = build_report(build_record())
    assert "<td>loss, nats per supervised token</td><td>5.5000</td><td>2.5000</td>" in report
    assert "<li>2 of 80 rows of no repeat an earlier row.</li>" in report
    nothing = build_report(build_record(evaluation=None, warnings=()))
    assert "<p>Nothing was held out, so nothing was evaluated.</p>" in nothing


def test_the_report_escapes_what_users_write() -> None:
    plan = build_plan(decisions=[DECISION | {"message": "<script>x</script>"}])
    assert "<script>" not in build_report(build_record(plan=plan))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def loaded(model_folder: Path) -> Any:
    pytest.importorskip("torch")
    from finetune_trainer.model import load

    return load.load(build_plan(), folder=model_folder)


def export_to(folder: Path, loaded: Any, account: RunRecord, *, model_folder: Path) -> Any:
    from finetune_trainer.publish.export import export

    (folder / "metrics.jsonl").write_text("{}\n")
    return export(
        loaded,
        account,
        stop=Stop(Token(2, "<|im_end|>")),
        model_folder=model_folder,
        folder=folder,
    )


@pytest.mark.torch
def test_the_adapter_gives_the_same_logits_in_plain_peft(
    loaded: Any, model_folder: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with torch.no_grad():
        for parameter in loaded.trainable():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    files = export_to(tmp_path, loaded, build_record(), model_folder=model_folder)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    ids = torch.tensor([build_rows(1)[0].input_ids])
    loaded.network.eval()
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, loaded.network(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "<|im_end|>"
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", COMMIT)
    assert not [path for path in files if str(model_folder).encode() in path.read_bytes()]


@pytest.mark.torch
def test_a_base_from_s3_has_no_revision_that_a_loader_would_look_for(
    loaded: Any, model_folder: Path, tmp_path: Path
) -> None:
    account = build_record(base_name="s3://models/tiny", model_revision="f" * 64)
    export_to(tmp_path, loaded, account, model_folder=model_folder)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("s3://models/tiny", None)


@pytest.mark.torch
def test_a_weight_that_is_not_finite_is_never_exported(
    loaded: Any, model_folder: Path, tmp_path: Path
) -> None:
    import torch

    with torch.no_grad():
        loaded.trainable()[0].fill_(float("nan"))
    with pytest.raises(NotFinite) as caught:
        export_to(tmp_path, loaded, build_record(), model_folder=model_folder)
    assert caught.value.reason == "WeightsNotFinite"


@pytest.fixture
def careless(model_folder: Path, tmp_path: Path) -> Path:
    """Return a model whose tokenizer names the very folder that it lies in."""
    copy = tmp_path / "careless"
    copy.mkdir()
    for path in model_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(config | {"name_or_path": str(copy)}))
    return copy


@pytest.mark.torch
def test_a_local_path_in_the_models_own_files_is_told_before_the_training(careless: Path) -> None:
    from finetune_trainer.inputs.tokenizer_files import load_tokenizer

    with pytest.raises(DataInvalid) as caught:
        load_tokenizer(build_plan().model, folder=careless)
    assert caught.value.message == (
        f"tokenizer_config.json of the model hf://org/tiny names the folder {careless}, which is"
        " absent for everyone who loads the adapter: expected no path of a container; remove it from the file and"
        " apply again."
    )


@pytest.mark.torch
def test_no_local_path_is_ever_published(loaded: Any, careless: Path, tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    with pytest.raises(OutputUnwritable) as caught:
        export_to(target, loaded, build_record(), model_folder=careless)
    assert caught.value.message == (
        f"tokenizer_config.json names the local folder {careless}, which exists nowhere else; remove it"
        " from the base model's file of that name."
    )


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        pytest.param('"/work/model"', True, id="itself"),
        pytest.param('"/work/model/x.json"', True, id="a file in it"),
        pytest.param('"/home/me/work/model"', False, id="the end of another"),
        pytest.param('"/work/model-2"', False, id="the beginning of another"),
    ],
)
def test_a_folder_is_told_from_those_with_a_similar_path(text: str, is_named: bool) -> None:
    assert names_folder(text.encode(), Path("/work/model")) is is_named


@pytest.mark.torch
def test_the_word_that_ends_an_answer_is_corrected_and_nothing_else(
    model_folder: Path, tmp_path: Path
) -> None:
    from finetune_trainer.inputs.tokenizer_files import copy_tokenizer

    before = json.loads((model_folder / "tokenizer_config.json").read_text())
    copy_tokenizer(model_folder, tmp_path, stop=Stop(Token(1, "<|im_start|>")))
    after = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert after == before | {"eos_token": "<|im_start|>"}
    tokenizer = "tokenizer.json"
    assert (tmp_path / tokenizer).read_bytes() == (model_folder / tokenizer).read_bytes()


@pytest.mark.parametrize(
    ("config", "length"),
    [
        pytest.param({"max_position_embeddings": 512}, 512, id="said"),
        pytest.param({"text_config": {"max_position_embeddings": 64}}, 64, id="said within"),
        pytest.param({"alibi": True}, None, id="not said"),
    ],
)
def test_the_length_that_a_model_reads_stands_in_its_config(
    config: dict[str, Any], length: int | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_context_length(tmp_path) == length
