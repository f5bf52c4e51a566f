"""The resource that runs on this machine: what the file says, with local text and what the machine has.

A local text gets the address of a claim that carries the hash of its content, so that the plan's hash
changes with the text. A copy of the base model keeps the model's own address. Everything that only a
cluster can give (nodes, queue, image, Secrets) is left out; none of it is part of the plan's hash.
"""

import copy
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.resource import LanguageFinetuneSpec, UpdatePolicy
from finetune_cli.errors import CliError
from finetune_cli.preview import INSTALL

if TYPE_CHECKING:
    from finetune_cli.inputs.local_text import LocalFile

FROM_ENVIRONMENT = "environment"
"""Name of the Secret that stands for the user's own environment."""
TEXT_FOLDER = "text"


@dataclass(frozen=True, slots=True)
class ClaimedText:
    """The files of one text and the address that stands for them."""

    claim: str
    files: tuple["LocalFile", ...]

    @property
    def uri(self) -> str:
        """The address in the plan."""
        return f"pvc://{self.claim}/{TEXT_FOLDER}"


@dataclass(frozen=True, slots=True)
class ClaimedTexts:
    """The local texts of a resource, by the number of their language."""

    train: Mapping[int, ClaimedText]
    validation: Mapping[int, ClaimedText]

    @property
    def all(self) -> tuple[ClaimedText, ...]:
        """Every text."""
        return (*self.train.values(), *self.validation.values())


def find_local_texts(
    spec: LanguageFinetuneSpec, *, data: Sequence[str], validation: Sequence[str]
) -> ClaimedTexts:
    """Return the texts that `--data` and `--validation` name.

    Raises:
        CliError: A path has no data, a language has no path, or a tag is none of the resource's.
    """
    if not data and not validation:
        return ClaimedTexts({}, {})
    if not data:
        raise CliError(["--validation goes with --data; add --data with the text to train on."])
    try:
        from finetune_cli.inputs import local_text
    except ImportError as error:
        raise CliError(
            [f"--data needs {error.name}, which is not installed; run `{INSTALL}` and try again."]
        ) from error
    found = local_text.find_texts(spec, data=data, validation=validation)
    tags = [language.tag.lower() for language in spec.languages]
    return ClaimedTexts(
        {index: _name(text.files, tag=tags[index]) for index, text in enumerate(found.train)},
        {
            index: _name(text.files, tag=f"{tags[index]}-held-out")
            for index, text in enumerate(found.validation)
            if text.files
        },
    )


def link_texts(texts: ClaimedTexts, *, claims: Path) -> None:
    """Make the claims: a folder for each text with a link to each of its files."""
    shutil.rmtree(claims, ignore_errors=True)
    for text in texts.all:
        for name, file in _relative_names(text.files).items():
            link = claims / text.claim / TEXT_FOLDER / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())


def build_local_spec(
    spec: Mapping[str, Any], *, texts: ClaimedTexts, gpus: int, has_hub_token: bool
) -> dict[str, Any]:
    """Return the spec that runs here, from a spec that keeps the rules.

    Args:
        spec: The spec as it was written.
        texts: What takes the place of its datasets.
        gpus: GPUs of this machine.
        has_hub_token: Whether the environment holds a token of the Hugging Face Hub.
    """
    local = copy.deepcopy(dict(spec))
    for name in ("suspend", "image", "ttlSecondsAfterFinished", "scheduling"):
        local.pop(name, None)
    # A changed file begins the next run, and a failed run is tried again by the same command.
    local["updatePolicy"] = UpdatePolicy.RECREATE.value
    local.setdefault("backoffLimit", 0)
    local["resources"] = _build_resources(local.get("resources") or {}, gpus=gpus)
    for index, language in enumerate(local["languages"]):
        _replace_text(language["dataset"], index=index, texts=texts)
    for part in (local["model"], *(language["dataset"] for language in local["languages"])):
        if has_hub_token and part["uri"].startswith("hf://"):
            part["secretRef"] = {"name": FROM_ENVIRONMENT}
    return local


def count_gpus(environ: Mapping[str, str] = os.environ) -> int:
    """Return the NVIDIA GPUs that a process started here may use."""
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([one for one in chosen.split(",") if one.strip() not in ("", "-1")])
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    listed = subprocess.run(
        [program, "--list-gpus"], capture_output=True, text=True, check=False, timeout=30
    )
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def shown_paths(texts: ClaimedTexts) -> dict[str, str]:
    """Return the path that a person gave for each address in a message of the trainer."""
    return {
        f"{text.uri}/{name}": str(file)
        for text in texts.all
        for name, file in _relative_names(text.files).items()
    } | {text.uri: str(_parent(text.files)) for text in texts.all}


def _build_resources(resources: Mapping[str, Any], *, gpus: int) -> dict[str, Any]:
    """Return what the machine gives: no more GPUs than it has, one node, no limits of a pod."""
    wanted = int(resources.get("gpus", 1))
    kept = {key: resources[key] for key in ("gpuMemory", "gpuMemoryClass") if key in resources}
    if min(wanted, gpus) == 0:
        kept = {}
    return {"gpus": min(wanted, gpus), **kept}


def _replace_text(dataset: dict[str, Any], *, index: int, texts: ClaimedTexts) -> None:
    if index not in texts.train:
        return
    for name in ("sha256", "split", "secretRef"):
        dataset.pop(name, None)
    dataset["uri"] = texts.train[index].uri
    if index in texts.validation:
        held_out = dict(dataset.get("validation") or {})
        held_out.pop("fraction", None)
        dataset["validation"] = {**held_out, "uri": texts.validation[index].uri}


def _name(files: Sequence["LocalFile"], *, tag: str) -> ClaimedText:
    digest = hashlib.sha256()
    for name, path in sorted(_relative_names(files).items()):
        digest.update(f"{name}\0{_hash_file(path)}\n".encode())
    return ClaimedText(claim=f"text-{tag}-{digest.hexdigest()[:16]}", files=tuple(files))


def _relative_names(files: Sequence["LocalFile"]) -> dict[str, Path]:
    """Return the name of each file below the folder that holds them all."""
    parent = _parent(files)
    return {str(file.path.relative_to(parent)): file.path for file in files}


def _parent(files: Sequence["LocalFile"]) -> Path:
    return Path(os.path.commonpath([file.path.parent for file in files]))


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CliError([f"{path} cannot be read: {reason}; check the file."]) from error
