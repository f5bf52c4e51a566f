"""Base models and texts on the disk, small enough to be measured in a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WORDS = ("habari", "ya", "asubuhi", "watu", "wote", "wamezaliwa", "huru", "na", "sawa", "haki")
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tokenizer(words: tuple[str, ...] = ()) -> Tokenizer:
    """Return a tokenizer that has a token for every byte, and one for each of `words`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: place for place, letter in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in words:
        spelt = "Ġ" + word
        for end in range(1, len(spelt)):
            merge = (spelt[:end], spelt[end])
            if merge not in merges:
                merges.append(merge)
            vocabulary.setdefault(spelt[: end + 1], len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_model(folder: Path, *, words: tuple[str, ...] = (), config: Any = None) -> Path:
    folder.mkdir()
    build_tokenizer(words).save(str(folder / "tokenizer.json"))
    specials = {"eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(specials), "utf-8")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


@pytest.fixture
def spelling(tmp_path: Path) -> Path:
    """A model that spells every word, byte by byte, of Llama-3.1-8B's shape."""
    return write_model(tmp_path / "spelling-8b", config=LLAMA)


@pytest.fixture
def knowing(tmp_path: Path) -> Path:
    """A model that knows the words of `text`, and whose shape is unknown."""
    return write_model(tmp_path / "knowing", words=WORDS)


def build_rows(count: int) -> list[dict[str, str]]:
    """Return rows that no other repeats: each says its number in words."""
    said = [" ".join(WORDS[int(digit)] for digit in f"{row:07d}") for row in range(count)]
    return [
        {"prompt": f"{row}. {text}?", "completion": f"{text} {row}"}
        for row, text in enumerate(said)
    ]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of 40 rows."""
    return write_rows(tmp_path / "text.jsonl", build_rows(40))


def write_rows(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture
def resource(tmp_path: Path) -> Callable[..., Path]:
    """Write a resource of one language, with what a test changes."""

    def write(**changes: Any) -> Path:
        spec = {
            "model": {"uri": "hf://org/base"},
            "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/sw/"}}],
            "output": {"uri": "s3://adapters/"},
        }
        body = {
            "apiVersion": "langops.dev/v1alpha1",
            "kind": "LanguageFinetune",
            "metadata": {"name": "swahili"},
            "spec": spec | changes,
        }
        path = tmp_path / "resource.yaml"
        path.write_text(yaml.safe_dump(body), "utf-8")
        return path

    return write
