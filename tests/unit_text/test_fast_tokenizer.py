"""A tokenizer without transformers gives the tokens, offsets and renderings of transformers' own."""

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_text.errors import TextInvalid
from finetune_text.rows.examples import Example, Message
from finetune_text.tokenization.chat_rendering import render_chat
from finetune_text.tokenization.tokenizer import FastTokenizer, load_fast_tokenizer
from finetune_text.tokenization.tokenizer_facts import describe_tokenizer, hash_tokenizer
from tests.unit_trainer import tokenizers_of_tests as templates
from tests.unit_trainer.tokenizers_of_tests import build_tokenizer

TEXTS = [
    "Habari ya asubuhi, dunia! 12345",
    "नमस्ते दुनिया, क्या हाल है?",
    "日本語  with spaces\n\n\ttabs",
    "Hello <|im_end|> special </s> x",
    " leading and trailing ",
    "",
    "a\u200cb ’ “q” 🙂",
]
CHAT = Example(
    source="",
    messages=(
        Message("user", "Habari?"),
        Message("assistant", "Nzuri, “rafiki”."),
        Message("user", "Leo?"),
        Message("assistant", "<think>hm</think>\nNjema."),
    ),
)
NAMES = ["CHATML", "LLAMA3", "NO_SYSTEM", "THINKING", "MOVES_SYSTEM", "PLAIN_WORDS", "DROPS_SYSTEM"]


def save_and_load(tokenizer: PreTrainedTokenizerFast, folder: Path) -> FastTokenizer:
    tokenizer.save_pretrained(folder)
    return load_fast_tokenizer(folder, source="s3://models/x")


@pytest.mark.parametrize("name", NAMES)
def test_chats_are_rendered_alike(name: str, tmp_path: Path) -> None:
    theirs = build_tokenizer(getattr(templates, name))
    ours = save_and_load(theirs, tmp_path)
    assert render_chat(ours, CHAT) == render_chat(theirs, CHAT)


@pytest.mark.parametrize("adds", [True, False], ids=["with special tokens", "without"])
@pytest.mark.parametrize("trims", [True, False], ids=["trimmed offsets", "whole offsets"])
def test_tokens_and_offsets_are_alike(adds: bool, trims: bool, tmp_path: Path) -> None:
    theirs = build_tokenizer(trims_offsets=trims)
    ours = save_and_load(theirs, tmp_path)
    expected = theirs(TEXTS, add_special_tokens=adds, return_offsets_mapping=True)
    found = ours(TEXTS, add_special_tokens=adds)
    assert found["input_ids"] == expected["input_ids"]
    assert found["offset_mapping"] == expected["offset_mapping"]
    assert len(ours) == len(theirs)


def test_special_tokens_and_eos_are_alike(tmp_path: Path) -> None:
    theirs = build_tokenizer()
    ours = save_and_load(theirs, tmp_path)
    assert set(ours.all_special_tokens) == set(theirs.all_special_tokens)
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.convert_ids_to_tokens(2) == theirs.convert_ids_to_tokens(2)
    assert ours.convert_tokens_to_ids("<|im_end|>") == theirs.convert_tokens_to_ids("<|im_end|>")


def test_what_stands_around_a_text_is_tokenizer_jsons_business_and_not_the_configs(
    tmp_path: Path,
) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": True}))
    ours = load_fast_tokenizer(tmp_path, source="s3://models/x")
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = theirs(["Habari"], add_special_tokens=True)["input_ids"]
    assert ours(["Habari"], add_special_tokens=True)["input_ids"] == expected


def test_of_several_templates_the_one_for_tools_is_taken_for_tools(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [
        {"name": "default", "template": "{{ messages[0]['content'] }}"},
        {"name": "tool_use", "template": "tools: {{ tools | tojson }}"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    ours = load_fast_tokenizer(tmp_path, source="s3://models/x")
    chat = [{"role": "user", "content": "<Habari>"}]
    assert ours.apply_chat_template(chat) == "<Habari>"
    tools = [{"name": "<saa>"}]
    assert ours.apply_chat_template(chat, tools=tools) == 'tools: [{"name": "<saa>"}]'


def test_a_template_may_mark_what_is_generated(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    )
    ours = save_and_load(build_tokenizer(template), tmp_path)
    assert ours.apply_chat_template([{"role": "user", "content": "Habari"}]) == "Habari"


def test_a_broken_tokenizer_is_refused_by_the_models_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(TextInvalid, match=r"^The tokenizer of s3://models/x cannot be loaded \("):
        load_fast_tokenizer(tmp_path, source="s3://models/x")


def test_a_folder_without_tokenizer_json_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TextInvalid) as refused:
        load_fast_tokenizer(tmp_path, source="s3://models/x")
    assert refused.value.message == (
        "The model s3://models/x has no tokenizer.json: expected one beside its config.json; convert"
        " the tokenizer with save_pretrained and try again."
    )


def test_the_identity_follows_every_file_that_can_change_a_token(tmp_path: Path) -> None:
    ours = save_and_load(build_tokenizer(templates.CHATML), tmp_path)
    facts = describe_tokenizer(ours.backend, tmp_path)
    assert (facts.family, facts.vocabulary) == ("", len(ours))
    (tmp_path / "chat_template.jinja").write_text(templates.PLAIN_WORDS)
    assert hash_tokenizer(tmp_path) != facts.sha256


def test_measuring_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, finetune_text.measure, finetune_text.tokenization.tokenizer, finetune_text.tokenization.tokenizer_facts;"
        " sys.exit(bool({'torch', 'transformers', 'boto3', 'requests'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- The families in use ------------------------------------------------------------------------


def write_date(form: str) -> str:
    return datetime.date(2024, 7, 26).strftime(form)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama2", "llama31", "qwen3", "gemma3"])
def test_the_tokenizers_of_the_families_count_alike(family: str) -> None:
    from transformers import AutoTokenizer

    from tests.demo.materials import load_declaration, load_tokenizer_folder

    folder = load_tokenizer_folder(family)
    theirs: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    ours = load_fast_tokenizer(folder, source=family)
    texts = [*TEXTS, *(load_declaration(code) for code in ("eng", "hin", "jpn", "arb", "amh"))]
    for adds in (True, False):
        expected = theirs(texts, add_special_tokens=adds, return_offsets_mapping=True)
        found = ours(texts, add_special_tokens=adds)
        assert found["input_ids"] == expected["input_ids"]
        assert found["offset_mapping"] == expected["offset_mapping"]
    if theirs.chat_template:
        chat = [message.as_template_value() for message in CHAT.messages]
        options: dict[str, Any] = {"tokenize": False, "strftime_now": write_date}
        assert ours.apply_chat_template(chat, **options) == theirs.apply_chat_template(
            chat, **options
        )
    assert describe_tokenizer(ours.backend, folder).family == family
