"""What a person may want to know or act on, beside the decisions.

An ordered list of small advisors; each looks at one thing and may say one sentence with the numbers
in it. Advice changes no value. Pure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune_resolver import measurement
from finetune_resolver.fold import Members
from finetune_resolver.resolution import Advice, Severity
from finetune_resolver.rules_guide import is_constrained
from finetune_resolver.steps import (
    Values,
    count,
    effective_batch,
    estimate_eval_steps,
    estimate_total_steps,
    number,
)
from finetune_resolver.traits import (
    Axes,
    Known,
    TraitSet,
    TraitSource,
    density_of,
    evidence_morphology,
    evidence_resource_level,
    measured_morphology,
)

LORA_RATE_RANGE = (5e-5, 3e-4)
"""Learning rates of the published multilingual LoRA projects (evidence: Bactrian-X 3e-4, TML's
sweep 1e-4 to 1e-3, Unsloth's continued pretraining 5e-5)."""
HIGH_ALPHA_RATIO = 4
"""alpha/r above which the scale multiplies the learning rate well beyond r to 2r (C3)."""
MLP_MODULES = frozenset({"gate_proj", "up_proj", "down_proj", "fc1", "fc2", "c_fc", "mlp"})
TRUNCATION_SHARE = 0.01
"""Share of examples cut above which a person should know (C11)."""
SCRIPT_SHARE = 0.9
"""Share of letters in the tag's script below which the tag is doubtful."""
USUAL_STEPS = (1000, 5000)
"""Steps that the guide names beside epochs (G-HT-11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the advisors look at."""

    members: Members
    axes: Axes
    values: Values
    overrides: frozenset[str]
    """Parameters that the user set."""
    world: int
    """Processes that train together."""


Advisor = Callable[[Circumstances], Iterator[Advice]]


def advise(circumstances: Circumstances) -> tuple[Advice, ...]:
    """Return all advice, in the order of `ADVISORS`."""
    return tuple(advice for advisor in ADVISORS for advice in advisor(circumstances))


# --- Languages ----------------------------------------------------------------------------------


def language_not_in_catalogue(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that a language has no row, and which one is near."""
    for known, _ in circumstances.members:
        found = known.found
        if found.row is not None or not found.known_language:
            continue
        near = f" The nearest language in it is {found.close[0]}." if found.close else ""
        script = f"its script ({found.script})" if found.script else "declared traits"
        yield Advice(
            id="language-not-in-catalogue",
            parameter="tag",
            severity=Severity.WARN,
            message=f"Language {found.tag} is not in the catalogue: only {script} and what is declared "
            f"or measured decide.{near} Declare traits where you know them.",
        )


def catalogue_other_script(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that the row was written for another script."""
    for known, _ in circumstances.members:
        found = known.found
        if found.other_script:
            yield Advice(
                id="catalogue-other-script",
                parameter="tokenDensity",
                severity=Severity.INFO,
                message=f"Language {found.tag} is written in {found.script} and the catalogue's row "
                f"{found.row_tag} in another script: its grammar counts, its token density does not.",
            )


def guide_label_disputed(circumstances: Circumstances) -> Iterator[Advice]:
    """Say where the guide's label, the user's and the evidence differ (C8, C25, C28)."""
    for known, traits in circumstances.members:
        yield from _disputed(known, traits, axis="morphology", evidence=_morphology_evidence(known))
        yield from _disputed(
            known, traits, axis="resource_level", evidence=_resource_evidence(known)
        )


def _morphology_evidence(known: Known) -> tuple[str, str] | None:
    """Return (class, detail) of the evidence on morphology."""
    trait = measured_morphology(known) or evidence_morphology(known)
    return None if trait is None else (str(trait.value), trait.detail)


def _resource_evidence(known: Known) -> tuple[str, str] | None:
    """Return (class, detail) of the evidence on the resource level; class 3 is in between."""
    trait = evidence_resource_level(known)
    if trait is not None:
        return str(trait.value), trait.detail
    joshi = known.found.row.evidence.facts.joshi if known.found.row else None
    return None if joshi is None else ("neither Low nor High", f"resource class {joshi} of 0-5")


def _disputed(
    known: Known, traits: TraitSet, *, axis: str, evidence: tuple[str, str] | None
) -> Iterator[Advice]:
    label, trait = getattr(known.labels, axis), traits.get(axis)
    if label is None or trait is None:
        return
    tag = known.found.tag
    if trait.source is TraitSource.DECLARED and trait.value != label:
        message = f"{trait.name} of {tag} is declared {trait.value} and counts; the guide's label is {label}."
    elif trait.source is TraitSource.GUIDE and evidence is not None and evidence[0] != label:
        message = (
            f"{trait.name} of {tag} is {label} by the guide and counts; the evidence says "
            f"{evidence[0]} ({evidence[1]})."
        )
    else:
        return
    yield Advice(
        id="guide-label-disputed",
        parameter=trait.name,
        severity=Severity.INFO,
        message=message,
        reference=", ".join(known.labels.ids),
    )


def density_measured_differs(circumstances: Circumstances) -> Iterator[Advice]:
    """Say where the label in use and the counted characters a token differ (C12, C13)."""
    for known, traits in circumstances.members:
        trait = traits.get("token_density")
        counted = _counted_density(known)
        if trait is None or counted is None or trait.source not in LABELS:
            continue
        chars, whose = counted
        if density_of(chars) is not trait.value:
            yield Advice(
                id="density-measured-differs",
                parameter="tokenDensity",
                severity=Severity.INFO,
                message=f"tokenDensity of {known.found.tag} is {trait.value} ({trait.source.lower()}) "
                f"and counts; {whose} {chars:.2f} characters a token, which is {density_of(chars)}.",
                reference="characters a token below 2.0 are Dense",
            )


LABELS = (TraitSource.GUIDE, TraitSource.DECLARED)


def _counted_density(known: Known) -> tuple[float, str] | None:
    """Return characters a token and who counted them: the job's text, else the catalogue."""
    if known.measured.chars_per_token is not None:
        return known.measured.chars_per_token, "your text has"
    row = known.found.row
    chars = row.evidence.tokens.get(known.family) if row else None
    if chars is None or chars[0] == measurement.DENSE_BELOW:
        return None
    return chars[0], f"parallel text under {known.family}'s tokenizer has"


def script_mismatch(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that the text is not written in the tag's script."""
    for known, _ in circumstances.members:
        share, script = known.measured.script_share, known.found.script
        if share is not None and script and share < SCRIPT_SHARE:
            yield Advice(
                id="script-mismatch",
                parameter="tag",
                severity=Severity.WARN,
                message=f"Only {share:.0%} of the letters of {known.found.tag} are in script {script}: "
                "check the tag (hi-Latn is romanised Hindi) and the dataset.",
            )


def truncation_high(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that more than one example in a hundred is cut (C11)."""
    length = count(circumstances.values, "max_seq_length")
    for known, _ in circumstances.members:
        p99 = known.measured.p99_tokens
        if p99 is not None and p99 > length:
            yield Advice(
                id="truncation-high",
                parameter="max_seq_length",
                severity=Severity.WARN,
                message=f"More than {TRUNCATION_SHARE:.0%} of the examples of {known.found.tag} exceed "
                f"{length} tokens (the 99th percentile is {p99:,}): raise parameters.maxSeqLength or "
                "shorten the examples.",
            )


# --- Parameters ---------------------------------------------------------------------------------


def lr_below_lora_range(circumstances: Circumstances) -> Iterator[Advice]:
    """Say that the rate hardly moves an adapter (C15)."""
    rate = number(circumstances.values, "learning_rate")
    low, high = LORA_RATE_RANGE
    if rate < low:
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
    if isinstance(modules, list) and not MLP_MODULES.intersection(map(str, modules)):
        yield Advice(
            id="attention-only-targets",
            parameter="target_modules",
            severity=Severity.INFO,
            message="Only attention is adapted; six of seven comparable systems adapt every linear layer. "
            "Set parameters.lora.targetModules to [AllLinear] to do so.",
            reference="Biderman et al. 2024, arXiv 2405.09673",
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
    return (
        values["save_strategy"] != "steps"
        or values["save_steps"] is None
        or values["save_steps"] == values["eval_steps"]
    )


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
        values, world=circumstances.world, examples=_total_examples(circumstances.members)
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


def _total_examples(members: Members) -> int | None:
    """Return the examples of all languages, or None where one was not measured."""
    examples = [known.measured.examples for known, _ in members]
    measured = [number_ for number_ in examples if number_ is not None]
    return sum(measured) if len(measured) == len(examples) else None


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


ADVISORS: tuple[Advisor, ...] = (
    language_not_in_catalogue,
    catalogue_other_script,
    guide_label_disputed,  # C8, C25, C28
    density_measured_differs,  # C12, C13
    script_mismatch,
    truncation_high,  # C11
    lr_below_lora_range,  # C15
    alpha_ratio_high,  # C3
    attention_only_targets,
    effective_batch_mismatch,  # C4
    best_model_not_kept,  # C19
    early_stopping_inert,
    max_steps_unusual,  # C20
)
