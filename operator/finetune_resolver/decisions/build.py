"""From a resolution to the plan's parts and to the lists in status. Pure; it decides nothing."""

import json
from collections.abc import Mapping

from pydantic import JsonValue

from finetune_api.plan import LoraPlan, TrainingParameters
from finetune_api.profile import COUNTED_LENGTHS
from finetune_api.resource import (
    Bias,
    EvalStrategy,
    LanguageFinetuneSpec,
    LrScheduler,
    SaveStrategy,
)
from finetune_api.status import (
    AlternativeStatus,
    ParameterStatus,
    SupersededStatus,
    Trigger,
    WarningStatus,
)
from finetune_resolver.policies.defaults import BY_STAGE
from finetune_resolver.resolution import Decision, MethodChoice, Resolution, Superseded
from finetune_resolver.traits.trait import Trait

VALUE_LIMIT = 2048
"""Characters of a value in status; the longest legal list of module names exceeds it."""
SHORT_LIMIT = 128
"""Characters of a superseded or alternative value in status."""

EVAL_WORDS = {
    "no": EvalStrategy.NEVER,
    "steps": EvalStrategy.STEPS,
    "epoch": EvalStrategy.EPOCH,
}
SAVE_WORDS = {
    "no": SaveStrategy.NEVER,
    "steps": SaveStrategy.STEPS,
    "epoch": SaveStrategy.EPOCH,
    "best": SaveStrategy.BEST,
}
SCHEDULER_WORDS = {
    "linear": LrScheduler.LINEAR,
    "cosine": LrScheduler.COSINE,
    "constant": LrScheduler.CONSTANT,
}
BIAS_WORDS = {"none": Bias.NONE, "all": Bias.ALL, "lora_only": Bias.LORA_ONLY}

SAME_NAME = (
    "max_seq_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "optimizer",
    "weight_decay",
    "warmup_steps",
    "warmup_ratio",
    "num_train_epochs",
    "max_steps",
    "max_grad_norm",
    "gradient_checkpointing",
    "eval_steps",
    "save_steps",
    "early_stopping_patience",
    "seed",
    "packing",
    "completion_only_loss",
)
"""Parameters that the plan calls as the guide does."""


def build_training(resolution: Resolution) -> tuple[TrainingParameters, LoraPlan]:
    """Return the plan's numbers of a resolution."""
    value = resolution.value
    training: Mapping[str, object] = {name: value(name) for name in SAME_NAME} | {
        "flash_attention": value("use_flash_attention"),
        "eval_strategy": EVAL_WORDS[str(value("evaluation_strategy"))],
        "save_strategy": SAVE_WORDS[str(value("save_strategy"))],
        "lr_scheduler": SCHEDULER_WORDS[str(value("lr_scheduler"))],
    }
    lora: Mapping[str, object] = {
        "r": value("r"),
        "alpha": value("lora_alpha"),
        "dropout": value("lora_dropout"),
        "target_modules": value("target_modules"),
        "bias": BIAS_WORDS[str(value("bias"))],
        "use_rslora": value("use_rslora"),
        "use_dora": value("use_dora"),
        "task_type": value("task_type"),
    }
    return TrainingParameters.model_validate(training), LoraPlan.model_validate(lora)


def learns_answers_only(spec: LanguageFinetuneSpec) -> bool:
    """Return whether only answers carry loss; measuring the text needs to know it beforehand."""
    declared = spec.parameters.completion_only_loss if spec.parameters else None
    rule = BY_STAGE[spec.stage]["completion_only_loss"]
    return bool(rule.value) if declared is None else declared


def unusual_length(spec: LanguageFinetuneSpec) -> int | None:
    """Return `parameters.maxSeqLength` if no profile counts for it unless asked, else None."""
    declared = spec.parameters.max_seq_length if spec.parameters else None
    return None if declared in COUNTED_LENGTHS else declared


def decision_statuses(resolution: Resolution) -> list[ParameterStatus]:
    """Return the method and then one status entry a decision, numbers written as JSON text."""
    return [
        _method_status(resolution.method),
        *(_decision_status(decision) for decision in resolution.decisions),
    ]


def warning_statuses(resolution: Resolution) -> list[WarningStatus]:
    """Return one status entry for each piece of advice."""
    return [
        WarningStatus(
            id=advice.id,
            parameter=advice.parameter,
            severity=advice.severity.value,
            message=advice.message,
            reference=advice.reference,
        )
        for advice in resolution.warnings
    ]


def trait_text(trait: Trait) -> str:
    """Return a trait's value as the resource writes it."""
    return str(trait.value).lower() if isinstance(trait.value, bool) else str(trait.value)


def _method_status(method: MethodChoice) -> ParameterStatus:
    return ParameterStatus(
        name="method",
        value=_json_text(method.value.value, limit=VALUE_LIMIT),
        rule=method.rule,
        guide_ids=list(method.guide_ids),
        source=method.source.value,
        message=method.message,
    )


def _decision_status(decision: Decision) -> ParameterStatus:
    alternative = decision.alternative
    return ParameterStatus(
        name=decision.parameter,
        value=_json_text(decision.value, limit=VALUE_LIMIT),
        rule=decision.rule,
        guide_ids=list(decision.guide_ids),
        source=decision.source.value,
        because=[_trigger(trait) for trait in decision.because],
        message=decision.message,
        reference=decision.reference,
        superseded=[_superseded_status(superseded) for superseded in decision.superseded],
        alternative=None
        if alternative is None
        else AlternativeStatus(
            policy=alternative.policy.value,
            value=_json_text(alternative.value, limit=SHORT_LIMIT),
            rule=alternative.rule,
            reference=alternative.reference,
        ),
    )


def _trigger(trait: Trait) -> Trigger:
    return Trigger(
        trait=trait.name, value=trait_text(trait), source=trait.source.value, detail=trait.detail
    )


def _superseded_status(superseded: Superseded) -> SupersededStatus:
    return SupersededStatus(
        value=_json_text(superseded.value, limit=SHORT_LIMIT),
        rule=superseded.rule,
        guide_ids=list(superseded.guide_ids),
        message=superseded.message,
    )


def _json_text(value: JsonValue, *, limit: int) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
