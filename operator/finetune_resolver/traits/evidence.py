"""Everything known of one language of one resource, before it is decided what that makes of it.

Between `catalogue` and `measurement`, which know, and `traits`, which decides which of them counts.
Values only, and the tokenizer family that a model's name tells.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from finetune_api.resource import Policy, TrainingStage, Traits
from finetune_resolver.traits.catalogue import FoundLanguage, GuideLabels
from finetune_resolver.traits.measurement import LanguageMeasurement
from finetune_resolver.traits.token_premium import estimate_token_premium

TOKENIZER_FAMILIES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("llama2", re.compile(r"llama-?2(?![0-9.])|tinyllama")),
    ("llama31", re.compile(r"llama-?3(\.[123])?(?![0-9.])")),
    ("qwen3", re.compile(r"qwen-?(2|2\.5|3)(?![0-9.])")),
    ("gemma3", re.compile(r"gemma-?3(?![0-9.])")),
)
"""Families whose tokens were counted, by a model's name. Names that do not tell match nothing."""

NAMES_REMEMBERED = 1024
"""Models whose name was searched. Users choose them, so the memory is bounded."""


# A named tuple for the reason that `Trait` is one; always made with keywords.
class LanguageEvidence(NamedTuple):
    """Everything known of one language of one resource."""

    declared: Traits
    found: FoundLanguage
    measured: LanguageMeasurement
    stage: TrainingStage
    family: str
    """Tokenizer family of the base model, or empty."""
    english_bytes_per_token: float | None = None
    """UTF-8 bytes of a token of English prose under the base model's tokenizer."""
    policy: Policy = Policy.GUIDE
    """Whose trait it is: the guide counts a corpus as it is, Evidence what it is worth in English."""

    @property
    def token_premium(self) -> float | None:
        """Tokens against English's for the same content."""
        return estimate_token_premium(
            self.found,
            family=self.family,
            bytes_per_token=self.measured.bytes_per_token,
            english_bytes_per_token=self.english_bytes_per_token,
        )

    @property
    def english_tokens(self) -> int | None:
        """Unique tokens that English would need for the same content; raw where nothing tells."""
        tokens = self.measured.unique_tokens
        return None if tokens is None else round(tokens / (self.token_premium or 1.0))

    @property
    def corpus_size(self) -> int | None:
        """What the corpus class is decided by: examples, or unique tokens as the policy counts them."""
        if self.policy is Policy.EVIDENCE and self.stage is not TrainingStage.INSTRUCTION:
            return self.english_tokens
        return self.measured.size(self.stage)

    @property
    def labels(self) -> GuideLabels:
        """What the guide says of the language; nothing where it has no row."""
        return self.found.labels


@lru_cache(maxsize=NAMES_REMEMBERED)
def tokenizer_family(uri: str) -> str:
    """Return the tokenizer family that a model's name tells, or an empty text."""
    name = uri.lower().rsplit("/", maxsplit=1)[-1]
    return next((family for family, pattern in TOKENIZER_FAMILIES if pattern.search(name)), "")
