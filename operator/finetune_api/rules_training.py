"""Rules on how it is trained: parameters, method, resources and scheduling.

Rows of the table that `validation` checks and `crd` writes. A row is never tightened for objects
that exist: the API server lets an unchanged field stay as it was admitted.
"""

from collections.abc import Callable
from typing import Any, Final

from finetune_api.quantity import parse_quantity
from finetune_api.resource import (
    DeadlinePolicy,
    EvalStrategy,
    LanguageFinetuneSpec,
    Method,
    Parameters,
    Resources,
    SaveStrategy,
    TrainingStage,
)
from finetune_api.validation_rule import ValidationRule

# --- Parameters ---------------------------------------------------------------------------------

PRESETS: Final = ("AllLinear", "Attention", "AttentionQV")
"""Words in `lora.targetModules` that stand for a whole list."""


def _not_both(first: str, second: str) -> Callable[[Any], bool]:
    return lambda part: getattr(part, first) is None or getattr(part, second) is None


PARAMETERS: Final = (
    ValidationRule(
        path="spec.parameters",
        cel="!has(self.numTrainEpochs) || !has(self.maxSteps)",
        message="numTrainEpochs and maxSteps are both set; each ends the training: keep one",
        check=_not_both("num_train_epochs", "max_steps"),
    ),
    ValidationRule(
        path="spec.parameters",
        cel="!has(self.warmupSteps) || !has(self.warmupRatio)",
        message="warmupSteps and warmupRatio are both set; each says how long to warm up: keep one",
        check=_not_both("warmup_steps", "warmup_ratio"),
    ),
    ValidationRule(
        path="spec.parameters",
        cel=(
            "!has(self.batchSize) || !has(self.perDeviceTrainBatchSize) || "
            "self.perDeviceTrainBatchSize <= self.batchSize"
        ),
        message=(
            "perDeviceTrainBatchSize is larger than batchSize, the nominal batch that a GPU takes "
            "whole or in parts; lower it, or leave batchSize out"
        ),
        check=lambda parameters: (
            parameters.batch_size is None
            or parameters.per_device_train_batch_size is None
            or parameters.per_device_train_batch_size <= parameters.batch_size
        ),
    ),
    ValidationRule(
        path="spec.parameters",
        cel="!has(self.evalSteps) || self.?evalStrategy.orValue('') == 'Steps'",
        message="evalSteps is read with evalStrategy Steps alone; set it, or leave evalSteps out",
        check=lambda parameters: (
            parameters.eval_steps is None or parameters.eval_strategy is EvalStrategy.STEPS
        ),
    ),
    ValidationRule(
        path="spec.parameters",
        cel="!has(self.saveSteps) || self.?saveStrategy.orValue('') == 'Steps'",
        message="saveSteps is read with saveStrategy Steps alone; set it, or leave saveSteps out",
        check=lambda parameters: (
            parameters.save_steps is None or parameters.save_strategy is SaveStrategy.STEPS
        ),
    ),
    ValidationRule(
        path="spec.parameters",
        cel=(
            "self.?evalStrategy.orValue('') != 'Never' || "
            "self.?earlyStoppingPatience.orValue(0) == 0"
        ),
        message=(
            "earlyStoppingPatience counts evaluations and evalStrategy is Never; set evalStrategy "
            "to Steps or Epoch, or earlyStoppingPatience to 0"
        ),
        check=lambda parameters: (
            parameters.eval_strategy is not EvalStrategy.NEVER
            or not parameters.early_stopping_patience
        ),
    ),
    ValidationRule(
        path="spec.parameters",
        cel=(
            "self.?evalStrategy.orValue('') != 'Never' || self.?saveStrategy.orValue('') != 'Best'"
        ),
        message=(
            "saveStrategy Best compares evaluations and evalStrategy is Never; set evalStrategy to "
            "Steps or Epoch, or another saveStrategy"
        ),
        check=lambda parameters: (
            parameters.eval_strategy is not EvalStrategy.NEVER
            or parameters.save_strategy is not SaveStrategy.BEST
        ),
    ),
    ValidationRule(
        path="spec.parameters",
        cel=("!has(self.embeddingLearningRate) || self.?lora.?trainEmbeddings.orValue(false)"),
        message=(
            "embeddingLearningRate is set and no embeddings are trained; set lora.trainEmbeddings "
            "to true, or leave embeddingLearningRate out"
        ),
        check=lambda parameters: (
            parameters.embedding_learning_rate is None
            or bool(parameters.lora and parameters.lora.train_embeddings)
        ),
    ),
    ValidationRule(
        path="spec.parameters.lora.targetModules",
        cel=(f"self.size() == 1 || !self.exists(module, module in {list(PRESETS)})"),
        message=(
            "mixes AllLinear, Attention or AttentionQV with other names; write one of these words "
            "alone, or name every module"
        ),
        check=lambda modules: len(modules) == 1 or not set(modules) & set(PRESETS),
    ),
    ValidationRule(
        path="spec.parameters.lora.targetModules",
        cel="!self.exists(module, module == 'all-linear')",
        message="has all-linear, PEFT's own word; write AllLinear",
        check=lambda modules: "all-linear" not in modules,
    ),
)


# --- Method and stage ---------------------------------------------------------------------------


def _parameters(spec: LanguageFinetuneSpec) -> Parameters:
    return spec.parameters or Parameters()


METHOD: Final = (
    ValidationRule(
        path="spec",
        cel="self.?method.orValue('Auto') != 'Full' || !has(self.parameters) || "
        "!has(self.parameters.lora)",
        message=(
            "parameters.lora shapes an adapter and method Full trains every weight; leave "
            "parameters.lora out, or set method to LoRA or QLoRA"
        ),
        check=lambda spec: spec.method is not Method.FULL or _parameters(spec).lora is None,
    ),
    ValidationRule(
        path="spec",
        cel="self.?method.orValue('Auto') != 'QLoRA' || self.?resources.?gpus.orValue(1) > 0",
        message=(
            "method QLoRA keeps the base model in 4 bits, which needs a GPU, and resources.gpus is "
            "0; set method to LoRA, or resources.gpus to 1"
        ),
        check=lambda spec: spec.method is not Method.QLORA or spec.resources.gpus > 0,
    ),
    ValidationRule(
        path="spec",
        cel=(
            "!self.?parameters.?packing.orValue(false) || "
            "self.?stage.orValue('Instruction') == 'ContinuedPretraining'"
        ),
        message=(
            "parameters.packing cuts texts at block borders, which would cut answers; set stage to "
            "ContinuedPretraining, or leave packing out"
        ),
        check=lambda spec: (
            not _parameters(spec).packing or spec.stage is TrainingStage.CONTINUED_PRETRAINING
        ),
    ),
)


# --- Resources and scheduling -------------------------------------------------------------------


def _within_limit(resource: str, *, cel_name: str, attribute: str) -> ValidationRule:
    """Return the rule that the request of `resource` is at most its limit."""

    def check(resources: Resources) -> bool:
        request = getattr(resources.requests, attribute, None)
        limit = getattr(resources.limits, attribute, None)
        return request is None or limit is None or parse_quantity(request) <= parse_quantity(limit)

    request, limit = f"self.requests.{cel_name}", f"self.limits.{cel_name}"
    return ValidationRule(
        path="spec.resources",
        cel=(
            f"!has(self.requests) || !has({request}) || !has(self.limits) || !has({limit}) || "
            f"quantity({request}).compareTo(quantity({limit})) <= 0"
        ),
        message=(
            f"requests.{resource} is larger than limits.{resource}, which no pod may have; raise "
            "the limit or lower the request"
        ),
        check=check,
    )


RESOURCES: Final = (
    _within_limit("cpu", cel_name="cpu", attribute="cpu"),
    _within_limit("memory", cel_name="memory", attribute="memory"),
    _within_limit(
        "ephemeral-storage",
        cel_name="ephemeral__dash__storage",
        attribute="ephemeral_storage",
    ),
)

SCHEDULING: Final = (
    ValidationRule(
        path="spec.scheduling.tolerations[]",
        cel="self.?operator.orValue('Equal') != 'Exists' || self.?value.orValue('') == ''",
        message="operator Exists tolerates every value; leave value out, or set operator to Equal",
        check=lambda toleration: toleration.operator != "Exists" or not toleration.value,
    ),
    ValidationRule(
        path="spec.scheduling.tolerations[]",
        cel="self.?key.orValue('') != '' || self.?operator.orValue('Equal') == 'Exists'",
        message="key is missing; name the taint, or set operator to Exists to tolerate every taint",
        check=lambda toleration: bool(toleration.key) or toleration.operator == "Exists",
    ),
    ValidationRule(
        path="spec.scheduling.tolerations[]",
        cel="!has(self.tolerationSeconds) || self.?effect.orValue('') == 'NoExecute'",
        message=(
            "tolerationSeconds is read with effect NoExecute alone; set it, or leave "
            "tolerationSeconds out"
        ),
        check=lambda toleration: (
            toleration.toleration_seconds is None or toleration.effect == "NoExecute"
        ),
    ),
)

DEADLINE: Final = (
    ValidationRule(
        path="spec",
        cel="self.?deadlinePolicy.orValue('Fail') == 'Fail' || has(self.activeDeadlineSeconds)",
        message=(
            "deadlinePolicy is PublishBest and there is no deadline; set activeDeadlineSeconds, or "
            "leave deadlinePolicy out"
        ),
        check=lambda spec: (
            spec.deadline_policy is DeadlinePolicy.FAIL or spec.active_deadline_seconds is not None
        ),
    ),
)

TRAINING_RULES: Final = (*PARAMETERS, *METHOD, *RESOURCES, *SCHEDULING, *DEADLINE)
