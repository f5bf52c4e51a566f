"""A base model on this machine: its tokenizer's folder and its config.json, found and read.

I/O for `plan` and `compare`, which work on local files alone. It looks for files and reads one of
them; what they mean is decided elsewhere.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_cli.errors import CliError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What is here of a base model."""

    name: str
    """Of its folder, as tables show it."""
    tokenizer: Path | None
    """Folder with tokenizer.json, and a chat template beside it where the model has one."""
    config: Mapping[str, object] | None
    """Of config.json."""


def find_model(tokenizer: str, *, config: str, option: str = "--tokenizer") -> LocalModel:
    """Return what two paths name: a folder with tokenizer.json or the file, and config.json.

    A config.json that stands beside the tokenizer counts where none is named.

    Raises:
        CliError: a path does not exist, or is something else.
    """
    folder = _tokenizer_folder(tokenizer, option=option) if tokenizer else None
    beside = folder / CONFIG_FILE if folder else None
    named = _config_path(config) if config else beside if beside and beside.is_file() else None
    return LocalModel(
        name=folder.resolve().name if folder else "",
        tokenizer=folder,
        config=load_config(named) if named else None,
    )


def load_config(path: Path) -> Mapping[str, object]:
    """Return the object in a config.json.

    Raises:
        CliError: the file cannot be read, or holds no object.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CliError([_unreadable(path, error)]) from error
    except ValueError as error:
        raise CliError(
            [f"{path} is not valid JSON: {error}; expected the model's {CONFIG_FILE}."]
        ) from error
    if not isinstance(content, dict):
        raise CliError([f"{path} holds no JSON object; expected the model's {CONFIG_FILE}."])
    return content


def _tokenizer_folder(path: str, *, option: str) -> Path:
    found = Path(path)
    if found.is_dir():
        found /= TOKENIZER_FILE
    if found.is_file() and found.name == TOKENIZER_FILE:
        return found.parent
    reported = "does not exist" if not found.exists() else "is another file"
    raise CliError(
        [
            (
                f"{option} {path}: {found} {reported}; expected a folder with {TOKENIZER_FILE} or that file, "
                "such as a downloaded model."
            )
        ]
    )


def _config_path(path: str) -> Path:
    found = Path(path)
    return found / CONFIG_FILE if found.is_dir() else found


def _unreadable(path: Path, error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return f"{path} cannot be read: {reason}; check the path."
