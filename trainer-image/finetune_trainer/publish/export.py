"""The folder that is published: a plain PEFT adapter and everything that tells of its making.

Between `evaluate` and `publish`. What is written is read back and checked here, before any byte
leaves the pod. No file holds a path of this machine, and none is a pickle.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from finetune_api import wire
from finetune_text.tokenization.stop_token import Stop
from finetune_trainer.errors import NotFinite, OutputUnwritable
from finetune_trainer.inputs.tokenizer_files import copy_tokenizer, names_folder
from finetune_trainer.model.loaded_model import LoadedModel
from finetune_trainer.publish.model_card import build_card, build_report
from finetune_trainer.publish.run_record import RunRecord

FILE_MODE = 0o644
"""Safetensors writes 0600, which another user's server cannot read."""


def export(
    loaded: LoadedModel, account: RunRecord, *, stop: Stop, model_folder: Path, folder: Path
) -> tuple[Path, ...]:
    """Write the folder and return its files, sorted by name.

    `metrics.jsonl` is already there: training writes it line by line.

    Raises:
        NotFinite: A trained weight is NaN or infinite.
        OutputUnwritable: What was written is not what was trained.
    """
    _write_adapter(loaded, account, folder=folder)
    copy_tokenizer(model_folder, folder, stop=stop)
    _write_texts(account, folder=folder)
    check_adapter(loaded, account, folder=folder)
    files = tuple(sorted(path for path in folder.iterdir() if path.is_file()))
    check_no_local_path(files, places=(model_folder, folder))
    for path in files:
        path.chmod(FILE_MODE)
    return files


def _write_adapter(loaded: LoadedModel, account: RunRecord, *, folder: Path) -> None:
    # `save_embedding_layers` otherwise asks a hub whether the vocabulary grew.
    loaded.network.save_pretrained(
        str(folder), safe_serialization=True, save_embedding_layers=False
    )
    path = folder / wire.ADAPTER_CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {
        "base_model_name_or_path": account.base_name,
        "revision": account.base_revision,
        "inference_mode": True,
    }
    _write_json(path, config)


def _write_texts(account: RunRecord, *, folder: Path) -> None:
    plan = account.plan
    (folder / "README.md").write_text(build_card(account), encoding="utf-8")
    (folder / "report.html").write_text(build_report(account), encoding="utf-8")
    _write_json(
        folder / "parameters.json",
        {
            "planHash": plan.hash,
            "policy": plan.policy.value,
            "method": plan.method.value,
            "training": plan.training.model_dump(mode="json", by_alias=True),
            "lora": plan.lora.model_dump(mode="json", by_alias=True),
            "decisions": [each.model_dump(mode="json", by_alias=True) for each in plan.decisions],
        },
    )
    _write_json(
        folder / "profile.json",
        {
            "languages": [each.model_dump(mode="json", by_alias=True) for each in account.corpus],
            "warnings": list(account.warnings),
        },
    )
    _write_json(folder / "environment.json", dict(account.environment))


def check_adapter(loaded: LoadedModel, account: RunRecord, *, folder: Path) -> None:
    """Read the written adapter back and compare it with the trained one.

    Raises:
        NotFinite: A weight is NaN or infinite.
        OutputUnwritable: A tensor is missing, or the configuration names another base.
    """
    config = json.loads((folder / wire.ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
    if config["base_model_name_or_path"] != account.base_name or config["r"] != account.plan.lora.r:
        raise OutputUnwritable(
            f"The written {wire.ADAPTER_CONFIG_FILE} differs from the plan; check the scratch disk of"
            " the pod.",
            reason="AdapterDiffers",
        )
    expected = {_published_name(name) for name in loaded.adapter_state()}
    # On the model's device: hundreds of small tensors took 13 s on a CPU of 16 cores (measured).
    device = str(loaded.device)
    with safe_open(str(folder / wire.ADAPTER_FILE), framework="pt", device=device) as tensors:
        missing = expected - set(tensors.keys())
        if missing:
            raise OutputUnwritable(
                f"The written {wire.ADAPTER_FILE} lacks {len(missing)} of {len(expected)} trained"
                f" tensors, such as {min(missing)}; check the scratch disk of the pod.",
                reason="AdapterDiffers",
            )
        for name in sorted(tensors.keys()):
            if not bool(torch.isfinite(tensors.get_tensor(name)).all()):
                raise NotFinite(
                    f"The trained tensor {name} holds NaN or infinity: lower"
                    " parameters.learningRate and apply again; nothing was published.",
                    reason="WeightsNotFinite",
                )


def check_no_local_path(files: Iterable[Path], *, places: Iterable[Path]) -> None:
    """See that no text names a folder of this pod, which means nothing to anybody else.

    Raises:
        OutputUnwritable: One does.
    """
    forbidden = tuple(places)
    for path in files:
        if path.suffix == ".safetensors":
            continue
        content = path.read_bytes()
        for place in forbidden:
            if names_folder(content, place):
                raise OutputUnwritable(
                    f"{path.name} names the local folder {place}, which exists nowhere else;"
                    " remove it from the base model's file of that name.",
                    reason="LocalPath",
                )


def _published_name(parameter: str) -> str:
    """Return PEFT's name, in the file, of a parameter of the adapter called `default`."""
    name = parameter.replace(".default.", ".").removesuffix(".default")
    is_magnitude = ".lora_magnitude_vector." in name
    return name.removesuffix(".weight") if is_magnitude else name


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
