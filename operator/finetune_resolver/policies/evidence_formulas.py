"""The arithmetic of policy Evidence: facts and decided parameters in, a value or a yes out.

`rules_evidence` gives each of these its place, its reason and its reference. Sequence length, batch,
steps, rank, alpha, learning rate and epochs follow published formulas; the constants beside them say
whose. Pure.
"""

import math
import re
from collections.abc import Callable
from functools import lru_cache

from pydantic import JsonValue

from finetune_api.resource import Corpus, Method, TrainingStage
from finetune_resolver.memory.estimate import estimate_largest_batch
from finetune_resolver.memory.fit import methods_to_try
from finetune_resolver.memory.model_shape import ALL_LINEAR, ModelShape
from finetune_resolver.policies.facts import Facts
from finetune_resolver.policies.workload import build_workload
from finetune_resolver.steps import EVAL_STEPS_BOUNDS, Values, count, estimate_total_steps, number
from finetune_resolver.traits import measurement
from finetune_resolver.traits.evidence import NAMES_REMEMBERED

LENGTH_STEP, SHORTEST = 256, 512
"""Lengths are multiples of 256 tokens, at least 512: finer saves nothing, shorter cuts answers."""
USUAL_LENGTH = 2048
"""Tokens; what Unsloth and LLaMA-Factory start with."""
TARGET_BATCHES = (16, 8, 4)
"""Sequences of an optimizer step, the largest first."""
LEAST_STEPS = 60
"""Optimizer steps below which a small corpus hardly moved a model: 21 steps against 39 were 2.705
against 2.504 bits per byte on 49 Swahili paragraphs (measured); 60 is our reading."""
RANKS = (8, 16, 32, 64, 128, 256)
USUAL_RANK, DOUBLED_UP_TO_RANK = 16, 32
"""Unsloth's and Predibase's rank; Unsloth's guide doubles up to 32."""
ALL_LINEAR_MODULES: JsonValue = [
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
]
FEW_EXAMPLES, DROPOUT_UP_TO_SIZE = 1_000, 13e9
"""QLoRA's appendix found dropout useful at 7B and 13B and not at 33B; 1,000 is an assumption."""
MORE_THAN_NAMED = 1.07
"""A model may hold more weights than its name says: Qwen3-4B has 4.02 billion, Llama-2-13b 13.02 and
StarCoder2-15B 15.96. Without it a model would change its class once its config.json is read."""
RSLORA_SCALE = 2
"""Scale of the update under rsLoRA, the one that twice the rank gives without it (assumption)."""
FEWEST_VISITS, MOST_VISITS, MOST_EPOCHS, USUAL_EPOCHS = 100, 25_000, 25, 3
"""Examples seen over all epochs: at least, at most; epochs: at most, usually (OpenAI cookbook)."""

RATES_BY_MODEL: tuple[tuple[re.Pattern[str], float], ...] = (
    (re.compile(r"(meta-)?llama-?3\.1-8b\b"), 3e-4),
    (re.compile(r"(meta-)?llama-?3\.2-[13]b\b"), 1e-3),
    (re.compile(r"(meta-)?llama-?3\.[13]-70b\b"), 3e-4),
    (re.compile(r"qwen-?3-8b\b"), 1e-3),
    (re.compile(r"qwen-?3-32b\b"), 3e-4),
    (re.compile(r"gpt-oss-20b\b"), 1e-4),
)
"""Best LoRA rates of a published sweep, by what the model's name begins with: a distillate into such
a model names it last (Tinker cookbook; batch 128)."""


# --- Length and passes --------------------------------------------------------------------------


def is_plain_text(facts: Facts, _: Values) -> bool:
    """Whether every token is learned from, in packed blocks."""
    return facts.stage is TrainingStage.CONTINUED_PRETRAINING


def has_known_lengths(facts: Facts, _: Values) -> bool:
    """Whether the lengths of all texts were measured."""
    return facts.p99_tokens is not None


def is_longer_than_context(facts: Facts, _: Values) -> bool:
    """Whether more than one text in a hundred is longer than the model can read."""
    known = facts.p99_tokens is not None and facts.context is not None
    return known and (facts.p99_tokens or 0) > (facts.context or 0)


def estimate_length(facts: Facts, _: Values) -> int:
    """Return the 99th percentile rounded up to 256, between 512 and the model's context (F12)."""
    p99 = facts.p99_tokens or 0
    length = max(SHORTEST, math.ceil(p99 / LENGTH_STEP) * LENGTH_STEP)
    return min(length, facts.context or length)


def decide_usual_length(facts: Facts, _: Values) -> int:
    """Return what comparable systems start with, within the model's context."""
    return min(USUAL_LENGTH, facts.context or USUAL_LENGTH)


def is_large_plain_text(facts: Facts, values: Values) -> bool:
    """Whether plain text is worth a billion unique tokens of English and more (F7).

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    tokens = facts.english_tokens
    if tokens is None or not is_plain_text(facts, values):
        return False
    return measurement.classify_corpus(tokens, stage=facts.stage) is Corpus.LARGE


def has_few_examples(facts: Facts, _: Values) -> bool:
    """Whether the usual epochs see fewer than a hundred examples (F18)."""
    return facts.examples is not None and USUAL_EPOCHS * facts.examples < FEWEST_VISITS


def has_many_examples(facts: Facts, _: Values) -> bool:
    """Whether the usual epochs see more than 25,000 examples (F18)."""
    return facts.examples is not None and USUAL_EPOCHS * facts.examples > MOST_VISITS


def raise_epochs(facts: Facts, _: Values) -> int:
    """Return the epochs that see about a hundred examples."""
    return min(MOST_EPOCHS, FEWEST_VISITS // max(1, facts.examples or 1))


def lower_epochs(facts: Facts, _: Values) -> int:
    """Return the epochs that see at most 25,000 examples, and each one once."""
    return max(1, MOST_VISITS // max(1, facts.examples or 1))


# --- The adapter --------------------------------------------------------------------------------


def linear_modules(facts: Facts, _: Values) -> JsonValue:
    """Return the model's linear modules, or those of Llama and what is built like it."""
    return list(facts.shape.linears()) if facts.shape else ALL_LINEAR_MODULES


def has_known_capacity(facts: Facts, _: Values) -> bool:
    """Whether both the tokens and the size of an adapter on this model are known."""
    return facts.tokens is not None and facts.shape is not None


def capacity(shape: ModelShape, *, rank: int, values: Values) -> int:
    """Return the weights of an adapter of `rank` on the modules decided.

    Args:
        shape: the sizes of the base model.
        rank: LoRA's r.
        values: the parameters decided so far, by the guide's name.
    """
    modules = values["target_modules"]
    names = tuple(map(str, modules)) if isinstance(modules, list) else (ALL_LINEAR,)
    return shape.lora_parameters(rank=rank, modules=names)


def least_rank(facts: Facts, values: Values) -> int:
    """Return the least rank with as many weights as tokens that are learned from (F15).

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    if facts.shape is None or facts.tokens is None:
        return USUAL_RANK
    a_rank = capacity(facts.shape, rank=1, values=values)
    return next((rank for rank in RANKS if rank * a_rank >= facts.tokens), RANKS[-1])


def alpha(_: Facts, values: Values) -> int:
    """Return twice the rank for small ranks, else the rank (F16)."""
    rank = count(values, "r")
    return 2 * rank if rank <= DOUBLED_UP_TO_RANK else rank


def has_rslora(_: Facts, values: Values) -> bool:
    """Whether PEFT divides alpha by the root of the rank."""
    return values["use_rslora"] is True


def rslora_alpha(_: Facts, values: Values) -> int:
    """Return the alpha whose quotient by the root of the rank is the usual scale (F16)."""
    return max(1, round(RSLORA_SCALE * math.sqrt(count(values, "r"))))


def is_likely_to_overfit(facts: Facts, _: Values) -> bool:
    """Whether so few examples train a model small enough that dropout was found useful."""
    few = facts.examples is not None and facts.examples < FEW_EXAMPLES
    return few and _is_named_up_to(DROPOUT_UP_TO_SIZE, facts=facts)


# --- Learning rate ------------------------------------------------------------------------------


@lru_cache(maxsize=NAMES_REMEMBERED)
def find_rate(model_name: str) -> float | None:
    """Return the sweep's best rate of a model, by its name (F17)."""
    return next((rate for name, rate in RATES_BY_MODEL if name.match(model_name)), None)


def is_in_sweep(facts: Facts, _: Values) -> bool:
    """Whether the sweep had this model."""
    return find_rate(facts.model_name) is not None


def is_named_up_to(size: float) -> Callable[[Facts, Values], bool]:
    """Return the question whether the model is of a size, as models are named, or smaller."""
    return lambda facts, _: _is_named_up_to(size, facts=facts)


def _is_named_up_to(size: float, *, facts: Facts) -> bool:
    return facts.parameters is not None and facts.parameters <= MORE_THAN_NAMED * size


def has_known_size(facts: Facts, _: Values) -> bool:
    """Whether the model's weights are known."""
    return facts.parameters is not None


def scale_rate(facts: Facts, rate: float) -> float:
    """Return LoRA's rate, or a tenth of it for full fine-tuning (TML).

    Args:
        facts: what policy Evidence looks at.
        rate: LoRA's learning rate.
    """
    return float(f"{rate / 10:g}") if facts.method is Method.FULL else rate


def rate(value: float) -> Callable[[Facts, Values], JsonValue]:
    """Return the formula that gives `value` to LoRA."""
    return lambda facts, _: scale_rate(facts, value)


# --- Batch and steps ----------------------------------------------------------------------------


def has_known_steps(facts: Facts, values: Values) -> bool:
    """Whether epochs of counted examples decide the length of the run.

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    by_epochs = count(values, "max_steps") <= 0 and not values["packing"]
    return by_epochs and facts.examples is not None


def decide_batch(facts: Facts, values: Values) -> int:
    """Return the largest batch that leaves at least 60 optimizer steps (F13).

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    for batch in TARGET_BATCHES:
        passes = math.ceil((facts.examples or 0) / batch)
        if math.ceil(passes * number(values, "num_train_epochs")) >= LEAST_STEPS:
            return batch
    return TARGET_BATCHES[-1]


def floor_power_of_two(limit: int) -> int:
    """Return the largest power of two up to `limit`, at least 1."""
    return 1 << (max(1, limit).bit_length() - 1)


def divide_batch(facts: Facts, values: Values) -> int:
    """Return one worker's share of the batch.

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    return floor_power_of_two(count(values, "batch_size") // facts.world)


def has_known_gpu_memory(facts: Facts, _: Values) -> bool:
    """Whether what fits the GPU can be computed."""
    return facts.shape is not None and facts.gpu_memory_bytes is not None


def fit_batch_share(facts: Facts, values: Values) -> int:
    """Return as much of a worker's share as fits the GPU, at least one sequence (F13).

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    if facts.shape is None or facts.gpu_memory_bytes is None:
        return divide_batch(facts, values)
    largest = 0
    for method in methods_to_try(facts.method):
        # The first that fits one sequence is the one that trains.
        largest = largest or estimate_largest_batch(
            facts.shape,
            build_workload(values, method=method),
            max_seq_length=count(values, "max_seq_length"),
            gpu_memory_bytes=facts.gpu_memory_bytes,
        )
    return floor_power_of_two(min(largest, count(values, "batch_size") // facts.world))


def accumulation(facts: Facts, values: Values) -> int:
    """Return the micro-steps that make the batch.

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    together = count(values, "per_device_train_batch_size") * facts.world
    return max(1, math.ceil(count(values, "batch_size") / together))


def has_short_epochs(facts: Facts, values: Values) -> bool:
    """Whether an epoch ends before the guide's least interval between evaluations.

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    total = estimate_total_steps(values, world=facts.world, examples=facts.examples)
    if total is None or count(values, "max_steps") > 0:
        return False
    return total < EVAL_STEPS_BOUNDS[0] * number(values, "num_train_epochs")
