"""What was measured of the job's own text, model and GPU: the resolver's optional second input.

The measurer fills these in; an unset field was not measured and decides nothing. This module
holds shapes and the formulas that turn a number into a class; it measures nothing itself.
"""

from dataclasses import dataclass

from finetune_api.resource import Corpus, GpuMemoryClass, TrainingStage
from finetune_resolver.memory.model_shape import ModelShape

DENSE_BELOW = 2.0
"""Characters a token; fewer is Dense. It reproduces the guide's labels for 12 of 12 languages with
Llama-2's tokenizer, where a token premium does not (evidence: catalogue)."""
COMPLEX_FROM_MATTR = 0.67
"""Type-token ratio over 500 words. 98 languages leave a gap at 0.656-0.683; weak evidence."""
MATTR_MIN_WORDS = 5_000
"""Words below which the ratio is not trusted (assumption)."""
COMPLEX_FROM_CASES = 4
"""Cases by WALS 49A; agrees with the guide for 8 of 9 languages that have a value."""
LOW_UP_TO_JOSHI = 2
"""Resource classes 0-2 are low-resource."""
HIGH_FROM_JOSHI = 4
"""Resource classes 4 and 5 are high-resource; 3 is neither."""
CODE_SWITCHING_FROM_CMI = 15.0
"""Mean code-mixing index of utterances, in percent."""
DEEP_FROM_LAYERS = 40
"""Hidden layers. Llama-3-8B and Mistral-7B have 32; the guide says "deeper" (our reading)."""
CORPUS_BOUNDS: dict[TrainingStage, tuple[int, int]] = {
    TrainingStage.INSTRUCTION: (10_000, 100_000),
    TrainingStage.CONTINUED_PRETRAINING: (50_000_000, 1_000_000_000),
}
"""First Medium and first Large size: examples for instructions, unique tokens for plain text.
Between Alpaca's 52,000 (Medium) and Airavata's 385,000 (Large); the guide calls Swahili Wikipedia,
about 22 M tokens, small."""


@dataclass(frozen=True, slots=True)
class LanguageMeasurement:
    """What was measured of one language's text."""

    examples: int | None = None
    """Examples of the text, those that will be held out included."""
    held_out: int = 0
    """Of them, the examples that are evaluated on and not trained on."""
    tokens: int | None = None
    """Tokens of all examples, chat template included."""
    supervised_tokens: int | None = None
    """Of them, those that carry loss."""
    unique_tokens: int | None = None
    """Tokens after exact and near duplicates are removed."""
    chars_per_token: float | None = None
    bytes_per_token: float | None = None
    """UTF-8 bytes."""
    words: int | None = None
    """Words that `mattr500` was computed on; None for scripts without spaces."""
    mattr500: float | None = None
    """Moving-average type-token ratio over 500 words, 0 to 1."""
    code_mixing_index: float | None = None
    """Mean over utterances, 0 to 100."""
    script_share: float | None = None
    """Share of letters in the tag's script, 0 to 1."""
    p95_tokens: int | None = None
    """Length that 95 % of the examples do not exceed, in tokens, chat template included."""
    p99_tokens: int | None = None
    """Length that 99 % do not exceed."""
    max_tokens: int | None = None
    """Length of the longest example."""
    truncated_shares: tuple[tuple[int, float], ...] = ()
    """Candidate length in tokens and the share of examples that exceed it, 0 to 1."""

    @property
    def trained_examples(self) -> int | None:
        """Examples without those that are held out."""
        return None if self.examples is None else max(0, self.examples - self.held_out)

    @property
    def learned_tokens(self) -> int | None:
        """Tokens that carry loss; without a count of them, all."""
        return self.tokens if self.supervised_tokens is None else self.supervised_tokens

    def size(self, stage: TrainingStage) -> int | None:
        """Return what `CORPUS_BOUNDS` counts at this stage."""
        return self.examples if stage is TrainingStage.INSTRUCTION else self.unique_tokens


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured for one resource."""

    languages: tuple[LanguageMeasurement, ...] = ()
    """In the order of `spec.languages`; empty where no text was measured."""
    tokenizer_family: str = ""
    """Of the base model's tokenizer, as the catalogue calls it; empty where the model's name has to tell."""
    english_bytes_per_token: float | None = None
    """UTF-8 bytes of a token of English prose under that tokenizer."""
    shape: ModelShape | None = None
    """Of the base model, from its config.json."""
    hidden_layers: int | None = None
    """Of the base model, where only that is known of it; `shape` counts before it."""
    gpu_memory_bytes: int | None = None
    """Of one GPU, from its product name or node label; `resources.gpuMemory` counts before it."""
    gpu_memory_class: GpuMemoryClass | None = None
    """Where someone else has decided it; else the memory model does, from `shape`."""

    @property
    def layers(self) -> int | None:
        """Hidden layers of the base model."""
        return self.shape.layers if self.shape else self.hidden_layers

    def language(self, index: int) -> LanguageMeasurement:
        """Return the measurement of `spec.languages[index]`, an empty one where there is none."""
        return self.languages[index] if index < len(self.languages) else LanguageMeasurement()


def classify_corpus(size: int, *, stage: TrainingStage) -> Corpus:
    """Return the corpus class of `size` examples or tokens.

    Args:
        size: examples of the stage Instruction, tokens of ContinuedPretraining.
        stage: what kind of training it is.
    """
    medium, large = CORPUS_BOUNDS[stage]
    if size < medium:
        return Corpus.SMALL
    return Corpus.MEDIUM if size < large else Corpus.LARGE
