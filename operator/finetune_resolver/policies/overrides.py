"""What the user sets in `spec.parameters`, under the guide's names and in its JSON values.

Pure. It announces nothing: `resolve` turns each override into a decision that says so.
"""

from pydantic import BaseModel, JsonValue

from finetune_api.resource import Bias, EvalStrategy, LrScheduler, Parameters, SaveStrategy
from finetune_resolver.errors import UnsupportedSpecError
from finetune_resolver.memory.model_shape import ModelShape

FIELDS: dict[str, str] = {
    "max_seq_length": "max_seq_length",
    "batch_size": "batch_size",
    "per_device_train_batch_size": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "learning_rate": "learning_rate",
    "optimizer": "optimizer",
    "weight_decay": "weight_decay",
    "warmup_steps": "warmup_steps",
    "warmup_ratio": "warmup_ratio",
    "lr_scheduler": "lr_scheduler",
    "num_train_epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "max_grad_norm": "max_grad_norm",
    "gradient_checkpointing": "gradient_checkpointing",
    "flash_attention": "use_flash_attention",
    "eval_strategy": "evaluation_strategy",
    "eval_steps": "eval_steps",
    "save_strategy": "save_strategy",
    "save_steps": "save_steps",
    "early_stopping_patience": "early_stopping_patience",
    "seed": "seed",
    "packing": "packing",
    "completion_only_loss": "completion_only_loss",
}
"""Field of `Parameters` to the guide's name."""
LORA_FIELDS: dict[str, str] = {
    "r": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "target_modules": "target_modules",
    "bias": "bias",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
"""Field of `LoraParameters` to the guide's name."""
WORDS: dict[str, str] = {
    EvalStrategy.NEVER: "no",
    EvalStrategy.STEPS: "steps",
    EvalStrategy.EPOCH: "epoch",
    SaveStrategy.BEST: "best",
    LrScheduler.LINEAR: "linear",
    LrScheduler.COSINE: "cosine",
    LrScheduler.CONSTANT: "constant",
    Bias.NONE: "none",
    Bias.ALL: "all",
    Bias.LORA_ONLY: "lora_only",
}
"""The resource's words to the guide's; what is not here is written alike."""
MODULE_PRESETS: dict[str, list[str]] = {
    "AttentionQV": ["q_proj", "v_proj"],
    "Attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "AllLinear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
"""Module lists of the Llama, Mistral, Qwen and Gemma families."""


Overrides = dict[str, tuple[str, JsonValue]]
"""The guide's name to (path below spec, value)."""


def build_overrides(parameters: Parameters | None, *, shape: ModelShape | None) -> Overrides:
    """Return what the user set: the guide's name to (path below spec, value).

    Words such as AllLinear become the modules of `shape`, or those of Llama where it is unknown.

    Args:
        parameters: `spec.parameters`.
        shape: the sizes of the base model; None where they are unknown.

    Raises:
        UnsupportedSpecError: an override has no counterpart in the plan yet.
    """
    if parameters is None:
        return {}
    lora = parameters.lora
    if parameters.embedding_learning_rate is not None:
        raise _not_supported("parameters.embeddingLearningRate")
    if lora is not None and lora.train_embeddings:
        raise _not_supported("parameters.lora.trainEmbeddings")
    overrides = _set_fields(parameters, fields=FIELDS, prefix="parameters")
    if lora is not None:
        overrides |= _set_fields(lora, fields=LORA_FIELDS, prefix="parameters.lora")
        if shape is not None and lora.target_modules and lora.target_modules[0] in MODULE_PRESETS:
            path, modules = overrides["target_modules"]
            names = map(str, modules) if isinstance(modules, list) else ()
            overrides["target_modules"] = (path, [*shape.own_names(names)])
    return overrides


def _set_fields(part: BaseModel, *, fields: dict[str, str], prefix: str) -> Overrides:
    found: Overrides = {}
    infos = type(part).model_fields
    for field in fields.keys() & part.model_fields_set:
        value = getattr(part, field)
        if value is not None:
            found[fields[field]] = (f"{prefix}.{infos[field].alias}", _guide_value(value))
    epochs = found.get("num_train_epochs")
    # 3.0 epochs are 3: the guide prints whole numbers.
    if epochs is not None and isinstance(epochs[1], float) and epochs[1].is_integer():
        found["num_train_epochs"] = (epochs[0], int(epochs[1]))
    return found


def _guide_value(value: JsonValue) -> JsonValue:
    """Return a value as the guide writes it."""
    if isinstance(value, str):
        return WORDS.get(value, str(value))
    if isinstance(value, list):
        preset = MODULE_PRESETS.get(str(value[0])) if len(value) == 1 else None
        return value if preset is None else [*preset]
    return value


def _not_supported(path: str) -> UnsupportedSpecError:
    return UnsupportedSpecError(
        f"spec.{path} is set, which is not supported yet: embeddings are not trained; remove the "
        "field and apply again."
    )
