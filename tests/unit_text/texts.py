"""Files and tokenizers for the tests of `finetune_text`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_api.plan import PlannedDataset
from finetune_text.measure import MOST_ROWS, LanguageText, build_sequencer, measure_language
from finetune_text.survey.language_report import LanguageReport
from finetune_text.tokenization.tokenizer import FastTokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@dataclass(frozen=True)
class File:
    path: Path
    source: str


@lru_cache
def _train() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["habari ya asubuhi rafiki", "maji ni uhai wa watu wote"] * 3, trainer)
    return str(bpe.to_str())


def build_tokenizer(template: str | None = CHATML) -> FastTokenizer:
    """Return a byte-level BPE of 400 tokens."""
    return FastTokenizer(
        Tokenizer.from_str(_train()),
        config={"eos_token": "<|im_end|>", "additional_special_tokens": SPECIALS},
        template=template,
    )


def build_word_tokenizer() -> FastTokenizer:
    """Return a tokenizer with one token a word, so that lengths are known by counting."""
    words = {"[UNK]": 0, "w": 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return FastTokenizer(tokenizer, config={}, template=None)


def write_rows(path: Path, rows: Iterable[Any]) -> File:
    """Write rows as JSON Lines; text and bytes are written as they are."""
    with path.open("wb") as file:
        for row in rows:
            text = json.dumps(row, ensure_ascii=False) if isinstance(row, dict) else row
            file.write((text.encode() if isinstance(text, str) else text) + b"\n")
    return File(path, f"s3://corpora/{path.name}")


def measure(
    *files: File,
    tag: str = "sw",
    tokenizer: FastTokenizer | None = None,
    validation: tuple[File, ...] = (),
    most_rows: int = MOST_ROWS,
    max_seq_length: int | None = None,
    **dataset: Any,
) -> LanguageReport:
    """Measure files as one language's text."""
    planned = PlannedDataset(tag=tag, uri="s3://corpora/", **dataset)
    sequencer = build_sequencer(tokenizer or build_tokenizer(), generation={}, completion_only=True)
    text = LanguageText(planned, files, validation, max_seq_length)
    return measure_language(text, sequencer, most_rows=most_rows)
