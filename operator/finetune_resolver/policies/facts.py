"""What policy Evidence decides from: the text's counts and lengths, the model's size, the GPU.

`gather_facts` folds what was measured of a resource's languages, model and GPU into one value; rules
read it and name the facts behind a decision. A fact that was not measured is None and decides nothing.
Pure.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from finetune_api.quantity import parse_quantity
from finetune_api.resource import LanguageFinetuneSpec, Method, TrainingStage
from finetune_resolver.memory.model_shape import ModelShape
from finetune_resolver.steps import workers
from finetune_resolver.traits.evidence import NAMES_REMEMBERED, LanguageEvidence
from finetune_resolver.traits.measurement import Measurements
from finetune_resolver.traits.trait import Trait, TraitSource

SIZE_IN_NAME = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
"""A size as models are named by it: SmolLM2-135M, Qwen2.5-0.5B, Llama-3.1-8B-Instruct."""
SIZE_UNITS = {"m": 1_000_000, "b": 1_000_000_000}


# A named tuple for the reason that `Trait` is one; always made with keywords.
class Facts(NamedTuple):
    """Everything that policy Evidence looks at."""

    stage: TrainingStage
    method: Method
    """As the resource asks; may be Auto."""
    world: int
    """Processes that train together."""
    model_name: str
    """Last part of the model's address, in small letters."""
    shape: ModelShape | None
    parameters: int | None
    """Weights of the base model: counted from its config.json, else what its name says."""
    has_gpu: bool
    gpu_memory_bytes: int | None
    """Of one GPU; None is unknown, or a run on CPU."""
    examples: int | None
    """Examples trained on, of all languages."""
    tokens: int | None
    """Tokens that carry loss in one pass, of all languages; without a count of them, all tokens."""
    unique_tokens: int | None
    english_tokens: int | None
    """The unique tokens that English would need for as much content, of all languages."""
    p99_tokens: int | None
    """Of the language whose texts are longest."""
    context: int | None
    """Longest sequence that the model knows, in tokens."""

    def traits(self) -> dict[str, Trait]:
        """Return the known facts by field, as status shows what a decision looked at."""
        return {
            name: Trait(shown, value, TraitSource.MEASURED)
            for name, shown in SHOWN.items()
            if (value := getattr(self, name)) is not None
        }


SHOWN = {
    "examples": "examples",
    "tokens": "supervisedTokens",
    "unique_tokens": "uniqueTokens",
    "english_tokens": "englishTokens",
    "p99_tokens": "p99Tokens",
    "parameters": "modelParameters",
    "context": "modelContext",
    "gpu_memory_bytes": "gpuMemoryBytes",
}
"""Field of `Facts` to the name that status shows."""
TEXT_FACTS = frozenset({"examples", "tokens", "unique_tokens", "english_tokens", "p99_tokens"})
"""Fields that only a measurement of the text can tell."""


def gather_facts(
    spec: LanguageFinetuneSpec, *, measured: Measurements, languages: Sequence[LanguageEvidence]
) -> Facts:
    """Return the facts of a resource; `languages` holds the evidence on each language.

    Args:
        spec: the spec of the resource.
        measured: what is known of texts, model and GPU; unset fields are unknown.
        languages: the evidence on each language.
    """
    texts = [one.measured for one in languages]
    name = spec.model.uri.lower().rstrip("/").rsplit("/", maxsplit=1)[-1]
    shape = measured.shape
    return Facts(
        stage=spec.stage,
        method=spec.method,
        world=workers(spec.resources),
        model_name=name,
        shape=shape,
        parameters=shape.parameters() if shape else read_size_from_name(name),
        has_gpu=spec.resources.gpus > 0,
        gpu_memory_bytes=_gpu_memory(spec, measured=measured),
        examples=_if_all_known([text.trained_examples for text in texts], combine=sum),
        tokens=_if_all_known([text.learned_tokens for text in texts], combine=sum),
        unique_tokens=_if_all_known([text.unique_tokens for text in texts], combine=sum),
        context=shape.max_positions if shape else None,
        english_tokens=_if_all_known([one.english_tokens for one in languages], combine=sum),
        p99_tokens=_if_all_known([text.p99_tokens for text in texts], combine=max),
    )


@lru_cache(maxsize=NAMES_REMEMBERED)
def read_size_from_name(name: str) -> int | None:
    """Return the weights that a model's name tells, in small letters; None where it does not."""
    found = SIZE_IN_NAME.search(name)
    return round(float(found[1]) * SIZE_UNITS[found[2]]) if found else None


def _gpu_memory(spec: LanguageFinetuneSpec, *, measured: Measurements) -> int | None:
    if not spec.resources.gpus:
        return None
    declared = spec.resources.gpu_memory
    return _bytes(declared) if declared else measured.gpu_memory_bytes


@lru_cache(maxsize=NAMES_REMEMBERED)
def _bytes(quantity: str) -> int:
    return int(parse_quantity(quantity))


def _if_all_known(counts: list[int | None], *, combine: Callable[[list[int]], int]) -> int | None:
    """Return the sum or the largest over all languages, or None where one was not measured."""
    known = [number for number in counts if number is not None]
    return combine(known) if len(known) == len(counts) else None
