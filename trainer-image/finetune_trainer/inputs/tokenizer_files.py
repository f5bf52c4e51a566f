"""The base model's tokenizer on the disk: loaded for tokenization, copied for the published adapter.

Beside `model`, after Unsloth was imported. The published files are the base model's own, byte for
byte, but for the word that ends an answer where the model's files have it wrong: a tokenizer that
was loaded and saved again may differ in more than that.
"""

import json
import re
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from finetune_api.plan import PlannedModel
from finetune_text.tokenization.stop_token import Stop
from finetune_trainer.errors import DataInvalid

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
)
EOS_FILES = ("tokenizer_config.json", "special_tokens_map.json")
"""Where a tokenizer's EOS is written."""
LOADING_FAULTS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
)
"""What transformers raises for a tokenizer that is broken, foreign or incomplete."""


def load_tokenizer(model: PlannedModel, *, folder: Path) -> Any:
    """Return the fast tokenizer of the model.

    Raises:
        DataInvalid: There is none that can be used, or its files cannot be published.
    """
    _check_no_local_path(model, folder=folder)
    auto = import_module("transformers").AutoTokenizer
    try:
        tokenizer = auto.from_pretrained(
            str(folder), trust_remote_code=model.trust_remote_code, local_files_only=True
        )
    except LOADING_FAULTS as fault:
        said = str(fault).strip().partition("\n")[0].replace(str(folder), model.uri)[:300]
        raise DataInvalid(
            f"The tokenizer of {model.uri} cannot be loaded ({type(fault).__name__}: {said}):"
            " expected tokenizer.json or its parts beside the weights; add them and apply again.",
            reason="TokenizerInvalid",
        ) from fault
    if not tokenizer.is_fast:
        raise DataInvalid(
            f"The tokenizer of {model.uri} says of no token where it stands in the text: expected one"
            " with tokenizer.json; convert it and apply again.",
            reason="TokenizerInvalid",
        )
    return tokenizer


def _check_no_local_path(model: PlannedModel, *, folder: Path) -> None:
    """Find before the training what could not be published after it."""
    for file in find_tokenizer_files(folder):
        if names_folder(file.read_bytes(), folder):
            raise DataInvalid(
                f"{file.name} of the model {model.uri} names the folder {folder}, which is"
                " absent for everyone who loads the adapter: expected no path of a container; remove it"
                " from the file and apply again.",
                reason="LocalPath",
            )


def names_folder(content: bytes, folder: Path) -> bool:
    """Tell whether a text names this very folder, and not another whose path only holds its name."""
    return (
        re.search(rb"(?<![\w./-])" + re.escape(str(folder).encode()) + rb"(?![\w-])", content)
        is not None
    )


def find_tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a model that its adapter is published with."""
    return [file for pattern in TOKENIZER_FILES for file in sorted(folder.glob(pattern))]


def load_generation_config(folder: Path) -> Mapping[str, Any]:
    """Return what the model says of generation; empty where it says nothing readable."""
    return _load_json(folder / "generation_config.json") or _load_json(folder / "config.json")


def load_context_length(folder: Path) -> int | None:
    """Return the most tokens that the model was made to read, or None where its config says nothing."""
    config = _load_json(folder / "config.json")
    for part in (config, config.get("text_config")):
        length = part.get("max_position_embeddings") if isinstance(part, Mapping) else None
        if isinstance(length, int) and length > 0:
            return length
    return None


def _load_json(path: Path) -> Mapping[str, Any]:
    """Return the object in a file; empty where it is absent or broken, which loading will tell."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def copy_tokenizer(source: Path, target: Path, *, stop: Stop) -> None:
    """Copy the tokenizer's files and correct the word that ends an answer."""
    for file in find_tokenizer_files(source):
        shutil.copyfile(file, target / file.name)
    if stop.token is None:
        return
    for name in EOS_FILES:
        _set_eos(target / name, stop.token.text)


def _set_eos(path: Path, word: str) -> None:
    if not path.exists():
        return
    content = json.loads(path.read_bytes())
    written = content.get("eos_token")
    if written is None and path.name != EOS_FILES[0]:
        return
    # An older file holds a mapping with the word inside.
    if (written["content"] if isinstance(written, dict) else written) == word:
        return
    path.write_text(
        json.dumps(content | {"eos_token": word}, indent=2, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
