"""Advice about parameters: values that practice, arithmetic or the libraries speak against.

Advisors as `advice` lists them; each looks at one thing and may say one sentence. Pure.
"""

from collections.abc import Iterator

from finetune_api.resource import Method
from finetune_resolver.axes_questions import is_constrained
from finetune_resolver.circumstances import Circumstances
from finetune_resolver.evidence_formulas import RANKS, capacity
from finetune_resolver.memory import ERROR_BAND, GB
from finetune_resolver.resolution import Advice, Severity
from finetune_resolver.steps import (
    Values,
    count,
    effective_batch,
    estimate_eval_steps,
    estimate_total_steps,
    number,
)

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


def truncation_high(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that more than one example in a hundred is cut (C11); packed text goes on in the next block."""
    if circumstances.values["packing"]:
        return
    length = count(circumstances.values, "max_seq_length")
    for known, _ in circumstances.members:
        p99 = known.measured.p99_tokens
        if p99 is not None and p99 > length:
            share = dict(known.measured.truncated_shares).get(length)
            how_many = f"{share:.1%}" if share is not None else f"More than {TRUNCATION_SHARE:.0%}"
            yield Advice(
                id="truncation-high",
                parameter="max_seq_length",
                severity=Severity.WARN,
                message=f"{how_many} of the examples of {known.found.tag} exceed "
                f"{length} tokens (the 99th percentile is {p99:,}): raise parameters.maxSeqLength or "
                "shorten the examples.",
            )


def lr_below_lora_range(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that the rate hardly moves an adapter (C15)."""
    rate = number(circumstances.values, "learning_rate")
    low, high = LORA_RATE_RANGE
    if rate < low and circumstances.method is not Method.FULL:
        yield Advice(
            id="lr-below-lora-range",
            parameter="learning_rate",
            severity=Severity.WARN,
            message=f"learning_rate {rate:g} lies below what LoRA is usually trained with "
            f"({low:g} to {high:g}): on 49 Swahili paragraphs a 135M model went from 3.447 to 3.445 bits "
            "per byte with 2e-05, to 3.294 with 2e-04 and to 2.946 with 1e-03. Override "
            "parameters.learningRate if the loss does not fall.",
            reference="measured with SmolLM2-135M-Instruct, 3 epochs; G-LR-3",
        )


def alpha_ratio_high(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that the scale multiplies the learning rate (C3)."""
    alpha, rank = count(circumstances.values, "lora_alpha"), count(circumstances.values, "r")
    if alpha / rank > HIGH_ALPHA_RATIO:
        yield Advice(
            id="alpha-ratio-high",
            parameter="lora_alpha",
            severity=Severity.WARN,
            message=f"lora_alpha/r is {alpha}/{rank} = {alpha / rank:.3g}, above {HIGH_ALPHA_RATIO}: it acts "
            "like a higher learning rate. Usual are 1 to 2.",
            reference="PEFT scales the update by alpha/r",
        )


def attention_only_targets(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that the feed-forward layers stay as they are."""
    modules = circumstances.values["target_modules"]
    if isinstance(modules, list) and MLP_MODULES.isdisjoint(map(str, modules)):
        yield Advice(
            id="attention-only-targets",
            parameter="target_modules",
            severity=Severity.INFO,
            message="Only attention is adapted; six of seven comparable systems adapt every linear layer. "
            "Set parameters.lora.targetModules to [AllLinear] to do so.",
            reference="Biderman et al. 2024, arXiv 2405.09673",
        )


def rank_capacity_exceeded(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that no usual rank has as many weights as there are tokens to learn from."""
    facts, largest = circumstances.facts, RANKS[-1]
    if facts.shape is None or facts.tokens is None:
        return
    weights = capacity(facts.shape, rank=largest, values=circumstances.values)
    if weights < facts.tokens:
        yield Advice(
            id="rank-capacity-exceeded",
            parameter="r",
            severity=Severity.INFO,
            message=f"The text has {facts.tokens:,} tokens to learn from and an adapter of rank "
            f"{largest}, the largest that is decided, {weights:,} weights: it may not hold all of it.",
            reference="Tinker LoRA primer: adapter weights at least the completion tokens",
        )


def insufficient_gpu_memory(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that one sequence fits by the estimate and not by the upper end of its band."""
    memory, gpu = circumstances.memory, circumstances.facts.gpu_memory_bytes
    if memory is None or gpu is None or memory.high_bytes <= gpu:
        return
    yield Advice(
        id="insufficient-gpu-memory",
        parameter="per_device_train_batch_size",
        severity=Severity.WARN,
        message=f"One sequence needs about {memory.total_bytes / GB:.1f} GB and, the estimate being within "
        f"{ERROR_BAND:.0%}, up to {memory.high_bytes / GB:.1f} GB of the GPU's {gpu / GB:.1f}: the run may "
        "end out of memory. Lower parameters.maxSeqLength, set method to QLoRA, or take a larger GPU.",
        reference="memory model, docs/memory.md",
    )


def effective_batch_mismatch(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that accumulation does not restore the nominal batch under constrained memory (C4)."""
    values = circumstances.values
    nominal = count(values, "batch_size")
    effective = effective_batch(values, world=circumstances.world)
    if is_constrained(circumstances.axes) and effective != nominal:
        yield Advice(
            id="effective-batch-mismatch",
            parameter="gradient_accumulation_steps",
            severity=Severity.WARN,
            message=f"An optimizer step is {effective} sequences, while batch_size is {nominal}: set "
            "parameters.gradientAccumulationSteps to match where that matters to you.",
            reference="G-HT-2, G-HT-12, G-HT-13",
        )


def best_model_not_kept(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that the last adapter is published, where the best one cannot be told (C19)."""
    values = circumstances.values
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


def early_stopping_inert(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that training ends before early stopping could act."""
    patience = count(circumstances.values, "early_stopping_patience")
    reason = _inert_reason(circumstances, patience=patience) if patience > 0 else ""
    if reason:
        yield Advice(
            id="early-stopping-inert",
            parameter="early_stopping_patience",
            severity=Severity.WARN,
            message=f"Early stopping with patience {patience} can never act: {reason}.",
            reference="G-HT-16",
        )


def _inert_reason(circumstances: Circumstances, *, patience: int) -> str:
    """Return why early stopping cannot act, or an empty text where it can or is unknown."""
    values, strategy = circumstances.values, circumstances.values["evaluation_strategy"]
    if strategy == "no":
        return "the held-out part is never evaluated"
    total = estimate_total_steps(
        values, world=circumstances.world, examples=circumstances.facts.examples
    )
    if strategy == "epoch":
        epochs = number(values, "num_train_epochs")
        by_epochs = count(values, "max_steps") <= 0 and epochs < patience + 1
        return f"{epochs:g} epochs are {epochs:g} evaluations" if by_epochs else ""
    if total is None:
        return ""
    every = estimate_eval_steps(values, total=total)
    inert = total < (patience + 1) * every
    return f"the run has {total:,} steps and is evaluated every {every:,}" if inert else ""


def max_steps_unusual(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that the steps lie outside the guide's range (C20)."""
    steps = count(circumstances.values, "max_steps")
    low, high = USUAL_STEPS
    if "max_steps" in circumstances.overrides and not low <= steps <= high:
        yield Advice(
            id="max-steps-unusual",
            parameter="max_steps",
            severity=Severity.INFO,
            message=f"max_steps is {steps:,}; where the guide sets it, it is {low:,} to {high:,}.",
            reference="G-HT-11",
        )
