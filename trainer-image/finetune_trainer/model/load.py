"""The base model with its adapter: the only module that imports Unsloth.

Between `tokenization` and `train`. Every argument of Unsloth is passed explicitly and what matters is
read back from the loaded model, because Unsloth ignores unknown arguments and falls back without an
error. Nothing here decides a number: all of them come from the plan.
"""

# Unsloth replaces classes of transformers, peft and trl while it is imported; what was imported
# before keeps the old ones. `environment.prepare_environment` must have run.
from finetune_trainer.model.unsloth_output import without_mistakes
from finetune_trainer.model.varlen_attention import complete_signature

complete_signature()
with without_mistakes():
    import unsloth

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from finetune_api.plan import LoraPlan, TrainingPlan
from finetune_api.resource import Bias, Method

from finetune_trainer.pod.environment import count_cpus
from finetune_trainer.errors import DataInvalid, EnvironmentUnfit, OutOfGpuMemory, PlanInvalid
from finetune_trainer.model.loaded_model import LoadedModel, PlainEngine
from finetune_trainer.inputs.tokenizer_files import load_context_length

ALL_LINEAR = "AllLinear"
BIASES = {Bias.NONE: "none", Bias.ALL: "all", Bias.LORA_ONLY: "lora_only"}
"""The plan's words and PEFT's, which is a string and never None."""
LOADING_FAULTS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
"""What transformers and Unsloth raise for a model that is broken, foreign or incomplete."""


def load(plan: TrainingPlan, *, folder: Path) -> LoadedModel:
    """Load the base model from `folder` and put a fresh adapter on it.

    Raises:
        PlanInvalid: A target module does not exist in this model.
        DataInvalid: The model's files are no model.
        EnvironmentUnfit: What was loaded is not what was asked for.
        OutOfGpuMemory: The GPU does not hold it.
    """
    device, dtype = _decide_device(plan), _decide_dtype(plan)
    if device.type == "cpu":
        torch.set_num_threads(count_cpus())
    with told_when_too_large(plan):
        base = _load_base(plan, folder=folder, dtype=dtype)
        targets = _decide_targets(plan, base)
        network = _add_adapter(plan, base, targets=targets)
    _check_adapter(plan.lora, network)
    counts = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return LoadedModel(
        network=network,
        device=device,
        dtype=dtype,
        attention=str(getattr(network.config, "_attn_implementation", "") or "eager"),
        trainable_parameters=sum(size for size, trained in counts if trained),
        total_parameters=sum(size for size, _ in counts),
        target_modules=targets,
        engine=PlainEngine(network, device, dtype),
    )


@contextmanager
def told_when_too_large(plan: TrainingPlan) -> Iterator[None]:
    """Turn a full GPU into our error, whether the model or its adapter filled it.

    Raises:
        OutOfGpuMemory: It is full.
    """
    try:
        yield
    except torch.OutOfMemoryError as fault:
        raise OutOfGpuMemory(
            f"The GPU's memory does not hold the model {plan.model.uri} with its adapter: choose"
            " method QLoRA, a smaller model or lora.r, or a GPU with more memory, and apply again.",
            reason="ModelTooLarge",
        ) from fault


def _load_base(plan: TrainingPlan, *, folder: Path, dtype: torch.dtype) -> Any:
    """Load the base model; what the library says of a broken one is raised as a fault of the model."""
    try:
        base = _call_loader(plan, folder=folder, dtype=dtype)
    except torch.OutOfMemoryError:
        # A RuntimeError too, and no fault of the model's files.
        raise
    except LOADING_FAULTS as fault:
        said = str(fault).strip().partition("\n")[0].replace(str(folder), plan.model.uri)[:300]
        raise DataInvalid(
            f"The model {plan.model.uri} cannot be loaded ({type(fault).__name__}: {said}): expected a"
            " causal language model in transformers' format with safetensors weights; correct"
            " spec.model and apply again.",
            reason="ModelInvalid",
        ) from fault
    quantized = plan.method is Method.QLORA
    is_quantized = any(type(module).__name__ == "Linear4bit" for module in base.modules())
    if is_quantized != quantized:
        raise EnvironmentUnfit(
            f"The model {plan.model.uri} was loaded {'in' if is_quantized else 'without'} 4 bit, the"
            f" plan's method {plan.method.value} needs the opposite: check that bitsandbytes works in"
            " the trainer image, or choose another method.",
            reason="QuantizationDiffers",
        )
    return base


def _call_loader(plan: TrainingPlan, *, folder: Path, dtype: torch.dtype) -> Any:
    quantized = plan.method is Method.QLORA
    base, _ = unsloth.FastLanguageModel.from_pretrained(
        model_name=str(folder),
        # NB: above what the model was made for Unsloth stretches its positions, which is not undone.
        max_seq_length=min(
            plan.training.max_seq_length,
            load_context_length(folder) or plan.training.max_seq_length,
        ),
        dtype=dtype,
        load_in_4bit=quantized,
        load_in_8bit=False,
        load_in_16bit=not quantized,
        full_finetuning=False,
        token=None,
        # A revision means nothing for a folder; the fetch pinned it.
        revision=None,
        use_exact_model_name=True,
        trust_remote_code=plan.model.trust_remote_code,
        fix_tokenizer=False,
        use_gradient_checkpointing=_checkpointing(plan),
        fast_inference=False,
        random_state=plan.training.seed,
        max_lora_rank=plan.lora.r,
    )
    return base


def _add_adapter(plan: TrainingPlan, base: Any, *, targets: Sequence[str]) -> Any:
    return unsloth.FastLanguageModel.get_peft_model(
        base,
        r=plan.lora.r,
        target_modules=list(targets),
        lora_alpha=plan.lora.alpha,
        lora_dropout=plan.lora.dropout,
        bias=BIASES[plan.lora.bias],
        layers_to_transform=None,
        layers_pattern=None,
        use_gradient_checkpointing=_checkpointing(plan),
        random_state=plan.training.seed,
        max_seq_length=plan.training.max_seq_length,
        use_rslora=plan.lora.use_rslora,
        modules_to_save=None,
        init_lora_weights=True,
        loftq_config=None,
        use_dora=plan.lora.use_dora,
    )


def _checkpointing(plan: TrainingPlan) -> str | bool:
    """Return whether layers are recomputed: on a CPU micro-batches are small enough to keep all of them."""
    return "unsloth" if plan.training.gradient_checkpointing and plan.resources.gpus else False


def _decide_device(plan: TrainingPlan) -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device())
        if plan.resources.gpus
        else torch.device("cpu")
    )


def _decide_dtype(plan: TrainingPlan) -> torch.dtype:
    if plan.resources.gpus == 0:
        # The same numbers on every CPU: few compute bf16 in hardware.
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def find_linear_modules(base: Any) -> tuple[str, ...]:
    """Return the names of the linear modules that can be adapted: all but the language-model head."""
    head = base.get_output_embeddings()
    return tuple(
        sorted(
            {
                name.rpartition(".")[2]
                for name, module in base.named_modules()
                if isinstance(module, torch.nn.Linear) and module is not head
            }
        )
    )


def _decide_targets(plan: TrainingPlan, base: Any) -> tuple[str, ...]:
    """Return the modules to adapt, all of which exist.

    PEFT is content when one of several names matches; the user believed in all of them.
    """
    available = find_linear_modules(base)
    wanted = plan.lora.target_modules
    if wanted == (ALL_LINEAR,):
        return available
    missing = [name for name in wanted if name not in available]
    if missing:
        raise PlanInvalid(
            f"parameters.lora.targetModules names {', '.join(missing)}, which the model"
            f" {plan.model.uri} lacks: its linear modules are {', '.join(available)}; name some of"
            f" these or {ALL_LINEAR} and apply again.",
            reason="TargetModulesMissing",
        )
    return tuple(wanted)


def _check_adapter(lora: LoraPlan, network: Any) -> None:
    """Compare what the adapter became with what the plan says."""
    config = network.peft_config["default"]
    became = {
        "r": config.r,
        "alpha": config.lora_alpha,
        "dropout": config.lora_dropout,
        "bias": config.bias,
        "useRslora": config.use_rslora,
        "useDora": config.use_dora,
    }
    asked = {
        "r": lora.r,
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "bias": BIASES[lora.bias],
        "useRslora": lora.use_rslora,
        "useDora": lora.use_dora,
    }
    differing = [name for name, value in asked.items() if became[name] != value]
    if differing:
        raise EnvironmentUnfit(
            f"The adapter's {', '.join(differing)} became"
            f" {', '.join(str(became[name]) for name in differing)} instead of"
            f" {', '.join(str(asked[name]) for name in differing)}: the Unsloth of this image does"
            " not obey the plan; use the trainer image of this release.",
            reason="AdapterDiffers",
        )
