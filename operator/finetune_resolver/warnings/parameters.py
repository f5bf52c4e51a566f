"""Advice about parameters: values that practice, arithmetic or the libraries speak against.

Advisors as `advice` lists them; each looks at one thing and may say one sentence. Pure.
"""

import math
from collections.abc import Iterator

from finetune_api.resource import Method, Policy
from finetune_resolver.memory.estimate import ERROR_BAND, GB
from finetune_resolver.policies.evidence_formulas import RANKS, capacity
from finetune_resolver.resolution import Advice, Severity
from finetune_resolver.steps import (
    Values,
    count,
    effective_batch,
    estimate_eval_steps,
    estimate_total_steps,
    number,
)
from finetune_resolver.traits.predicates import is_constrained
from finetune_resolver.warnings.context import WarningContext

LORA_RATE_RANGE = (5e-5, 3e-4)
"""Learning rates of the published multilingual LoRA projects (evidence: Bactrian-X 3e-4, TML's
sweep 1e-4 to 1e-3, Unsloth's continued pretraining 5e-5)."""
HIGH_ALPHA_RATIO = 4
"""alpha/r above which the scale multiplies the learning rate well beyond r to 2r (C3)."""
MLP_MODULES = frozenset({"gate_proj", "up_proj", "down_proj", "fc1", "fc2", "c_fc", "mlp"})
TRUNCATION_SHARE = 0.01
"""Share of examples cut above which a person should know (C11)."""
USUAL_STEPS = (1000, 5000)
"""Steps that the guide names beside epochs (G-HT-11)."""


def truncation_high(context: WarningContext) -> Iterator[Advice]:
    """Say that more than one example in a hundred is cut (C11); packed text goes on in the next block."""
    if context.values["packing"]:
        return
    length = count(context.values, "max_seq_length")
    for language, _ in context.members:
        p99 = language.measured.p99_tokens
        if p99 is not None and p99 > length:
            remedy = _build_cutting_remedy(context, length=length)
            share = dict(language.measured.truncated_shares).get(length)
            how_many = f"{share:.1%}" if share is not None else f"More than {TRUNCATION_SHARE:.0%}"
            yield Advice(
                id="truncation-high",
                parameter="max_seq_length",
                severity=Severity.WARN,
                message=f"{how_many} of the examples of {language.found.tag} exceed "
                f"{length:,} tokens (the 99th percentile is {p99:,}): {remedy}.",
            )


def _build_cutting_remedy(context: WarningContext, *, length: int) -> str:
    """Return what keeps text from being cut: nothing that the model or the GPU cannot take."""
    model_context = context.facts.context
    if model_context is not None and length >= model_context:
        return f"the model reads {model_context:,} and no more, so shorten or split them"
    if _is_tight(context):
        return "the GPU hardly holds this length, so shorten or split them, or take a larger GPU"
    return "raise parameters.maxSeqLength or shorten the examples"


def _is_cut(context: WarningContext) -> bool:
    """Whether more than one example in a hundred is cut."""
    length = count(context.values, "max_seq_length")
    lengths = [language.measured.p99_tokens for language, _ in context.members]
    packed = context.values["packing"]
    return not packed and any(p99 is not None and p99 > length for p99 in lengths)


def lr_below_lora_range(context: WarningContext) -> Iterator[Advice]:
    """Say that the rate hardly moves an adapter (C15)."""
    rate = number(context.values, "learning_rate")
    low, high = LORA_RATE_RANGE
    if _is_slow(context):
        # Acting on this one alone would multiply the rate by the scale that `alpha_ratio_high` warns about.
        scaled = _scale(context.values) > HIGH_ALPHA_RATIO
        beside = ", and lower parameters.lora.alpha with it" if scaled else ""
        yield Advice(
            id="lr-below-lora-range",
            parameter="learning_rate",
            severity=Severity.WARN,
            message=f"learning_rate {rate:g} lies below what LoRA is usually trained with "
            f"({low:g} to {high:g}): on 49 Swahili paragraphs a 135M model went from 3.447 to 3.445 bits "
            "per byte with 2e-05, to 3.294 with 2e-04 and to 2.946 with 1e-03. Override "
            f"parameters.learningRate if the loss does not fall{beside}.",
            reference="measured with SmolLM2-135M-Instruct, 3 epochs; G-LR-3",
        )


def _is_slow(context: WarningContext) -> bool:
    """Whether an adapter is trained below the usual rates."""
    rate = number(context.values, "learning_rate")
    return rate < LORA_RATE_RANGE[0] and context.method is not Method.FULL


def alpha_ratio_high(context: WarningContext) -> Iterator[Advice]:
    """Say that the scale multiplies the learning rate (C3)."""
    values = context.values
    alpha, rank, scale = count(values, "lora_alpha"), count(values, "r"), _scale(values)
    if scale > HIGH_ALPHA_RATIO:
        root = values["use_rslora"]
        what, quotient = ("sqrt(r)", f"sqrt({rank})") if root else ("r", f"{rank}")
        beside = ""
        if _is_slow(context):
            beside = " Here it makes up for a part of the low learning_rate: lower it only with a higher rate."
        yield Advice(
            id="alpha-ratio-high",
            parameter="lora_alpha",
            severity=Severity.WARN,
            message=f"lora_alpha/{what} is {alpha}/{quotient} = {scale:.3g}, above {HIGH_ALPHA_RATIO}: it "
            f"acts like a higher learning rate. Usual are 1 to 2.{beside}",
            reference=f"PEFT scales the update by alpha/{what}",
        )


def _scale(values: Values) -> float:
    """Return what PEFT multiplies the adapter's update by."""
    alpha, rank = count(values, "lora_alpha"), count(values, "r")
    return alpha / (math.sqrt(rank) if values["use_rslora"] else rank)


def attention_only_targets(context: WarningContext) -> Iterator[Advice]:
    """Say that the feed-forward layers stay as they are."""
    modules = context.values["target_modules"]
    if isinstance(modules, list) and MLP_MODULES.isdisjoint(map(str, modules)):
        yield Advice(
            id="attention-only-targets",
            parameter="target_modules",
            severity=Severity.INFO,
            message="Only attention is adapted; six of seven comparable systems adapt every linear layer. "
            "Set parameters.lora.targetModules to [AllLinear] to do so.",
            reference="Biderman et al. 2024, arXiv 2405.09673",
        )


def rank_capacity_exceeded(context: WarningContext) -> Iterator[Advice]:
    """Say that no usual rank has as many weights as there are tokens to learn from."""
    facts, largest = context.facts, RANKS[-1]
    if facts.shape is None or facts.tokens is None or context.method is Method.FULL:
        return
    weights = capacity(facts.shape, rank=largest, values=context.values)
    if weights < facts.tokens:
        yield Advice(
            id="rank-capacity-exceeded",
            parameter="r",
            severity=Severity.INFO,
            message=f"The text has {facts.tokens:,} tokens to learn from and an adapter of rank "
            f"{largest}, the largest that policy Evidence takes, {weights:,} weights: it may not hold all of it.",
            reference="Tinker LoRA primer: adapter weights at least the completion tokens",
        )


def insufficient_gpu_memory(context: WarningContext) -> Iterator[Advice]:
    """Say that one sequence fits by the estimate and not by the upper end of its band."""
    memory, gpu = context.memory, context.facts.gpu_memory_bytes
    if memory is None or gpu is None or not _is_tight(context):
        return
    length = count(context.values, "max_seq_length")
    remedies = ["take a larger GPU"]
    if context.method in LEANER:
        remedies.insert(0, f"set method to {LEANER[context.method]}")
    # A shorter length would cut more of the text, which `truncation_high` complains of already.
    if not _is_cut(context):
        remedies.insert(0, "lower parameters.maxSeqLength")
    yield Advice(
        id="insufficient-gpu-memory",
        parameter="per_device_train_batch_size",
        severity=Severity.WARN,
        message=f"One sequence of {length:,} tokens needs about {memory.total_bytes / GB:.1f} GB and, the estimate being within "
        f"{ERROR_BAND:.0%}, up to {memory.high_bytes / GB:.1f} GB of the GPU's {gpu / GB:.1f}: the run may "
        f"end out of memory. {_either(remedies)}.",
        reference="memory model, docs/memory.md",
    )


LEANER = {Method.FULL: "LoRA or QLoRA", Method.LORA: "QLoRA"}
"""Method to what needs less memory."""


def _is_tight(context: WarningContext) -> bool:
    """Whether one sequence may exceed the GPU by the upper end of the estimate's band."""
    memory, gpu = context.memory, context.facts.gpu_memory_bytes
    return memory is not None and gpu is not None and memory.high_bytes > gpu


def _either(remedies: list[str]) -> str:
    *first, last = remedies
    said = f"{', '.join(first)}, or {last}" if len(first) > 1 else " or ".join(remedies)
    return said[:1].upper() + said[1:]


def effective_batch_mismatch(context: WarningContext) -> Iterator[Advice]:
    """Say that an optimizer step is not the nominal batch of sequences (C4)."""
    values, world = context.values, context.world
    nominal = count(values, "batch_size")
    effective = effective_batch(values, world=world)
    # The guide's batch_size is a micro-batch, which is accumulated beyond itself where memory is ample.
    is_step = context.policy is Policy.EVIDENCE or is_constrained(context.axes)
    if not is_step or effective == nominal:
        return
    by_guide = context.policy is Policy.GUIDE
    yield Advice(
        id="effective-batch-mismatch",
        parameter="gradient_accumulation_steps",
        severity=Severity.WARN,
        message=f"An optimizer step is {effective} sequences, while batch_size is {nominal}: "
        f"{_build_batch_remedy(values, nominal=nominal, world=world)}.",
        reference="G-HT-2, G-HT-12, G-HT-13" if by_guide else "arithmetic",
    )


def _build_batch_remedy(values: Values, *, nominal: int, world: int) -> str:
    """Return what makes an optimizer step the nominal batch."""
    together = count(values, "per_device_train_batch_size") * world
    if nominal % together == 0:
        steps = nominal // together
        return f"set parameters.gradientAccumulationSteps to {steps} where that matters to you"
    return (
        f"no number of micro-steps of {together} makes it; set parameters.batchSize to "
        f"{effective_batch(values, world=world)} if that is what you want"
    )


def best_model_not_kept(context: WarningContext) -> Iterator[Advice]:
    """Say that the last adapter is published, where the best one is unknown (C19)."""
    values = context.values
    evaluated, saved = values["evaluation_strategy"], values["save_strategy"]
    if saved == "best" or evaluated == "no" or _same_cadence(values):
        return
    yield Advice(
        id="best-model-not-kept",
        parameter="save_strategy",
        severity=Severity.WARN,
        message=f"The held-out part is evaluated by {evaluated} and adapters are saved by {saved}, so the "
        "last adapter is published and not the best. Set parameters.saveStrategy to Best to keep the best.",
        reference="G-HT-14, G-HT-15",
    )


def _same_cadence(values: Values) -> bool:
    if values["evaluation_strategy"] != values["save_strategy"]:
        return False
    saved, evaluated = values["save_steps"], values["eval_steps"]
    if values["save_strategy"] != "steps" or saved is None:
        return True
    # Every state that is saved has been evaluated: the trainer then keeps the best of those saved.
    return evaluated is not None and count(values, "save_steps") % count(values, "eval_steps") == 0


def early_stopping_inert(context: WarningContext) -> Iterator[Advice]:
    """Say that training ends before early stopping could act."""
    patience = count(context.values, "early_stopping_patience")
    reason = _inert_reason(context, patience=patience) if patience > 0 else ""
    if reason:
        yield Advice(
            id="early-stopping-inert",
            parameter="early_stopping_patience",
            severity=Severity.WARN,
            message=f"Early stopping with patience {patience} can never act: {reason}.",
            reference="G-HT-16",
        )


def _inert_reason(context: WarningContext, *, patience: int) -> str:
    """Return why early stopping cannot act and what would help, or nothing where it can or is unknown."""
    values, strategy = context.values, context.values["evaluation_strategy"]
    if strategy == "no":
        return "the held-out part is never evaluated; set parameters.evalStrategy to Steps or Epoch"
    total = estimate_total_steps(values, world=context.world, examples=context.facts.examples)
    if strategy == "epoch":
        epochs = number(values, "num_train_epochs")
        by_epochs = count(values, "max_steps") <= 0 and epochs < patience + 1
        return _too_few_epochs(epochs, patience=patience) if by_epochs else ""
    if total is None:
        return ""
    every = estimate_eval_steps(values, total=total)
    inert = total < (patience + 1) * every
    return _too_few_steps(total, every=every, patience=patience) if inert else ""


def _too_few_epochs(epochs: float, *, patience: int) -> str:
    times = "once" if int(epochs) == 1 else f"{int(epochs)} times"
    said = f"the held-out part is evaluated {times}, by epochs, and {patience + 1} times are needed"
    if epochs < 2:
        return f"{said}; set parameters.evalStrategy to Steps and evalSteps to less than an epoch"
    return f"{said}; set parameters.earlyStoppingPatience to {int(epochs) - 1} to let it act"


def _too_few_steps(total: int, *, every: int, patience: int) -> str:
    said = f"the run has {total:,} steps and is evaluated every {every:,}"
    sooner = total // (patience + 1)
    if not sooner:
        return said
    at_most = f"{sooner:,} or less" if sooner > 1 else "1"
    return f"{said}; set parameters.evalSteps to {at_most} to let it act"


def max_steps_unusual(context: WarningContext) -> Iterator[Advice]:
    """Say that the steps lie outside the guide's range (C20)."""
    steps = count(context.values, "max_steps")
    low, high = USUAL_STEPS
    if "max_steps" in context.overrides and not low <= steps <= high:
        yield Advice(
            id="max-steps-unusual",
            parameter="max_steps",
            severity=Severity.INFO,
            message=f"max_steps is {steps:,}; where the guide sets it, it is {low:,} to {high:,}.",
            reference="G-HT-11",
        )
