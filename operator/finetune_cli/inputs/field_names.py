"""Names that people bring along, and today's field for each.

Arguments of old tutorials and of the libraries are refused by name with the field that does their
work; a misspelt or misplaced field with the one that was meant. Data and look-up only.
"""

from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from finetune_api.resource import LanguageFinetuneSpec

PARAMETERS = "spec.parameters"
LORA = "spec.parameters.lora"

RENAMED: dict[str, str] = {
    # transformers, TRL and Unsloth
    "max_length": f"{PARAMETERS}.maxSeqLength",
    "max_seq_len": f"{PARAMETERS}.maxSeqLength",
    "sequence_len": f"{PARAMETERS}.maxSeqLength",
    "cutoff_len": f"{PARAMETERS}.maxSeqLength",
    "micro_batch_size": f"{PARAMETERS}.perDeviceTrainBatchSize",
    "gradient_accumulation": f"{PARAMETERS}.gradientAccumulationSteps",
    "lr": f"{PARAMETERS}.learningRate",
    "optim": f"{PARAMETERS}.optimizer",
    "lr_scheduler_type": f"{PARAMETERS}.lrScheduler",
    "num_epochs": f"{PARAMETERS}.numTrainEpochs",
    "epochs": f"{PARAMETERS}.numTrainEpochs",
    "evaluation_strategy": f"{PARAMETERS}.evalStrategy",
    "use_gradient_checkpointing": f"{PARAMETERS}.gradientCheckpointing",
    "use_flash_attention": f"{PARAMETERS}.flashAttention",
    "use_flash_attention_2": f"{PARAMETERS}.flashAttention",
    "flash_attention_2": f"{PARAMETERS}.flashAttention",
    "attn_implementation": f"{PARAMETERS}.flashAttention",
    "random_state": f"{PARAMETERS}.seed",
    "random_seed": f"{PARAMETERS}.seed",
    "train_on_responses_only": f"{PARAMETERS}.completionOnlyLoss",
    "patience": f"{PARAMETERS}.earlyStoppingPatience",
    # PEFT
    "lora_r": f"{LORA}.r",
    "lora_rank": f"{LORA}.r",
    "rank": f"{LORA}.r",
    "lora_alpha": f"{LORA}.alpha",
    "lora_dropout": f"{LORA}.dropout",
    "lora_target_modules": f"{LORA}.targetModules",
    "lora_bias": f"{LORA}.bias",
    "modules_to_save": f"{LORA}.trainEmbeddings",
    "peft_config": LORA,
    "lora_config": LORA,
    # where things are
    "base_model": "spec.model.uri",
    "model_name": "spec.model.uri",
    "model_name_or_path": "spec.model.uri",
    "model_id": "spec.model.uri",
    "train_dataset": "spec.languages[].dataset.uri",
    "train_file": "spec.languages[].dataset.uri",
    "data_path": "spec.languages[].dataset.uri",
    "eval_dataset": "spec.languages[].dataset.validation.uri",
    "val_set_size": "spec.languages[].dataset.validation.fraction",
    "dataset_text_field": "spec.languages[].dataset.columns.text",
    "language": "spec.languages[].tag",
    "lang": "spec.languages[].tag",
    "output_dir": "spec.output.uri",
    "hub_model_id": "spec.output.hub.repo",
    "push_to_hub": "spec.output.hub",
    "save_total_limit": "spec.checkpoints.keep",
}
"""Names of other tools to the path of today's field."""

GONE: dict[str, str] = {
    "tokenizer": "the tokenizer comes with the model; remove it",
    "tokenizer_name": "the tokenizer comes with the model; remove it",
    "tokenizer_name_or_path": "the tokenizer comes with the model; remove it",
    "load_in_4bit": "write spec.method: QLoRA instead",
    "load_in_8bit": "8-bit bases are not trained; write spec.method: QLoRA for a 4-bit base, or remove it",
    "quantization": "write spec.method: QLoRA for a 4-bit base, or remove it",
    "task_type": "it is always CAUSAL_LM; remove it",
    "fp16": "the number format is chosen by the GPU; remove it",
    "bf16": "the number format is chosen by the GPU; remove it",
    "dtype": "the number format is chosen by the GPU; remove it",
    "torch_dtype": "the number format is chosen by the GPU; remove it",
    "device_map": "placement is chosen from spec.resources; remove it",
    "report_to": "metrics go to status and to metrics.jsonl beside the adapter; remove it",
    "load_best_model_at_end": "write spec.parameters.saveStrategy: Best instead",
    "resume_from_checkpoint": "a run resumes from its own newest checkpoint; remove it",
    "group_by_length": "sequences are laid end to end without padding; remove it",
    "chat_template": "the template comes with the model's tokenizer; remove it",
    "namespace": "everything is in the resource's own namespace; remove it",
    "accessKeyId": "credentials stand in a Secret; name it in secretRef",
    "secretAccessKey": "credentials stand in a Secret; name it in secretRef",
    "token": "credentials stand in a Secret; name it in secretRef",
}
"""Names of other tools that no field stands for, and what to do."""

ENUM_SYNONYMS: dict[str, tuple[str, ...]] = {
    "Large": ("huge", "big", "massive", "high", "xl"),
    "Medium": ("middle", "mid", "moderate"),
    "Small": ("tiny", "little", "low"),
    "Low": ("rare", "small", "scarce"),
    "High": ("rich", "large"),
    "Complex": ("complexe", "rich", "agglutinative", "inflectional", "high"),
    "Simple": ("easy", "analytic", "isolating", "low"),
    "Dense": ("heavy", "high"),
    "Light": ("sparse", "low"),
    "Far": ("distant", "different"),
    "Near": ("close", "similar"),
    "Never": ("no", "none", "off", "false"),
    "Steps": ("step",),
    "Epoch": ("epochs",),
    "Deep": ("deeper", "large"),
    "Constrained": ("small", "limited", "low"),
    "Ample": ("large", "enough", "high"),
    "LoraOnly": ("lora_only",),
    "AdamW": ("adamw_torch", "adam", "adamw_torch_fused"),
    "AdamW8bit": ("adamw_8bit", "adamw8bit", "paged_adamw_8bit", "adamw_bnb_8bit"),
    "Text": ("txt", "raw", "plain"),
    "Chat": ("messages", "sharegpt", "conversations"),
    "Instruction": ("alpaca", "sft"),
    "ContinuedPretraining": ("cpt", "pretraining", "pretrain"),
    "Auto": ("automatic", "default"),
}
"""The enum's word to what people write for it (C33)."""


def sub_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside `X | None`, `list[X]` or `Annotated[X, …]`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, list):
        return next((model for arg in get_args(annotation) if (model := sub_model(arg))), None)
    return None


def fields_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's fields as the resource spells them, each with its annotation."""
    return {info.alias or name: info.annotation for name, info in model.model_fields.items()}


def model_at(path: tuple[str | int, ...]) -> type[BaseModel] | None:
    """Return the model that holds the fields at a path below spec."""
    model: type[BaseModel] | None = LanguageFinetuneSpec
    for step in path:
        if isinstance(step, str) and model is not None:
            model = sub_model(fields_of(model).get(step))
    return model


@cache
def field_paths() -> dict[str, tuple[str, ...]]:
    """Return every field's name, in small letters without separators, to its paths."""
    paths: dict[str, tuple[str, ...]] = {}

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, annotation in fields_of(model).items():
            path = f"{prefix}.{name}"
            paths[plain(name)] = (*paths.get(plain(name), ()), path)
            child = sub_model(annotation)
            if child is not None:
                walk(child, f"{path}[]" if get_origin(annotation) is list else path)

    walk(LanguageFinetuneSpec, "spec")
    return paths


def plain(name: str) -> str:
    """Return a name without case and separators: max_seq_length and maxSeqLength are alike."""
    return name.replace("_", "").replace("-", "").lower()


def remedy_for(name: str, *, siblings: list[str], path: str) -> str:
    """Return what to do about a field that does not exist at `path`."""
    if name in GONE:
        return GONE[name]
    same = next((field for field in siblings if plain(field) == plain(name)), None)
    if same is not None:
        return f"write {same}"
    if name in RENAMED:
        return f"write {RENAMED[name]}"
    elsewhere = [other for other in field_paths().get(plain(name), ()) if other != path]
    if 0 < len(elsewhere) <= 3:
        return f"write it as {' or '.join(elsewhere)}"
    close = get_close_matches(name, siblings, n=1, cutoff=0.7)
    if close:
        return f"did you mean {close[0]}?"
    return f"expected one of {', '.join(siblings)}"


def meant_word(value: str, *, allowed: list[str]) -> str | None:
    """Return the enum's word that a person may have meant."""
    low = plain(value)
    for word in allowed:
        synonyms = (plain(synonym) for synonym in ENUM_SYNONYMS.get(word, ()))
        if low == plain(word) or low in synonyms:
            return word
    close = get_close_matches(value.capitalize(), allowed, n=1, cutoff=0.7)
    return close[0] if close else None
