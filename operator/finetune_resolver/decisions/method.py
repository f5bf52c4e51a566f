"""What is trained: the method by what fits the GPU, and the guide's advice on adapters beside it (C26).

`resolve` asks once, with the parameters that were decided. Pure.
"""

from collections.abc import Callable

from finetune_api.resource import LanguageFinetuneSpec, Method, Mode, OutputFormat, TrainingStage
from finetune_resolver.errors import InsufficientGpuMemoryError
from finetune_resolver.memory.fit import MethodDecision
from finetune_resolver.memory.model_shape import TINY_UP_TO_PARAMETERS
from finetune_resolver.policies.facts import Facts
from finetune_resolver.resolution import OVERRIDE, DecisionSource, MethodChoice, PeftAdvice

Row = tuple[Callable[[LanguageFinetuneSpec, Facts], bool], PeftAdvice, str, str]


def _is_tiny(_: LanguageFinetuneSpec, facts: Facts) -> bool:
    return facts.parameters is not None and facts.parameters <= TINY_UP_TO_PARAMETERS


PEFT_ADVICE: tuple[Row, ...] = (
    (
        lambda spec, _: spec.stage is TrainingStage.CONTINUED_PRETRAINING,
        PeftAdvice.REQUIRED,
        "G-PR-4",
        "continued pretraining wants an adapter for efficiency",
    ),
    (
        lambda spec, _: OutputFormat.MERGED_16BIT in spec.output.formats,
        PeftAdvice.EITHER,
        "G-PR-5",
        "a model for production may be merged or trained whole",
    ),
    (
        lambda spec, _: spec.mode is Mode.PLAN,
        PeftAdvice.RECOMMENDED,
        "G-PR-3",
        "a prototype saves time and cost with an adapter",
    ),
    (_is_tiny, PeftAdvice.OPTIONAL, "G-PR-2", "a model this small could be trained whole as well"),
    (
        lambda _, __: True,
        PeftAdvice.PREFERRED,
        "G-PR-1",
        "a full fine-tune of a large model costs too much memory",
    ),
)
"""The guide's table "is PEFT required?": when, the advice, its item, and why. The first row counts."""


def decide_method(
    spec: LanguageFinetuneSpec, *, facts: Facts, fitting: MethodDecision | None
) -> MethodChoice:
    """Return what is trained.

    Args:
        spec: the resource.
        facts: what is known of the model.
        fitting: what the memory model says; None where it has nothing to compute with.

    Raises:
        InsufficientGpuMemoryError: not even one sequence of the full length fits the GPU.
    """
    if fitting is not None and not fitting.fits:
        raise InsufficientGpuMemoryError(fitting.message, nearest=fitting.nearest)
    advice, guide_id, why = _advice(spec, facts)
    beside = f"{why} ({guide_id})."
    declared = spec.method is not Method.AUTO
    if fitting is None:
        how = "Set by spec.method" if declared else "LoRA unless method says otherwise"
        message = f"{how}; {beside}"
    else:
        how = "Set by spec.method. " if declared else ""
        message = f"{how}{fitting.message} By the guide, {beside}"
    rule, source = "ME-0", DecisionSource.RULE
    if fitting is not None and facts.gpu_memory_bytes is not None:
        rule, source = "ME-1", DecisionSource.MEASURED
    if declared:
        rule, source = OVERRIDE, DecisionSource.OVERRIDE
    return MethodChoice(
        _chosen(spec, fitting), advice, (guide_id,), message, rule=rule, source=source
    )


def _chosen(spec: LanguageFinetuneSpec, fitting: MethodDecision | None) -> Method:
    if fitting is not None:
        return fitting.method
    return Method.LORA if spec.method is Method.AUTO else spec.method


def _advice(spec: LanguageFinetuneSpec, facts: Facts) -> tuple[PeftAdvice, str, str]:
    return next(row[1:] for row in PEFT_ADVICE if row[0](spec, facts))
