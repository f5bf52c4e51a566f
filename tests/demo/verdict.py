"""The adapter in plain PEFT: loaded from the downloaded folder, compared with the base model.

Nothing of this project is imported: what is shown here, any user of PEFT can do.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Loss:
    """Mean over the answers of a text. Units: nats per answer token, bits per answer byte."""

    nats_per_token: float
    bits_per_byte: float


@dataclass(frozen=True)
class Verdict:
    """Base against adapter on the same text."""

    base: Loss
    adapter: Loss
    examples: int
    trainable_parameters: int


def compare(*, model_folder: Path, adapter_folder: Path, chats: list[dict[str, Any]]) -> Verdict:
    """Load base and adapter as anybody would and measure the answers of `chats` under both."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(adapter_folder)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter_folder).eval()
    with torch.inference_mode():
        adapted = measure_answers(model, tokenizer, chats)
        with model.disable_adapter():
            plain = measure_answers(model, tokenizer, chats)
    size = sum(value.numel() for name, value in model.named_parameters() if "lora_" in name)
    return Verdict(base=plain, adapter=adapted, examples=len(chats), trainable_parameters=size)


def load_chats(file: Path) -> list[dict[str, Any]]:
    """Return the chats of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def measure_answers(model: Any, tokenizer: Any, chats: list[dict[str, Any]]) -> Loss:
    """Return the loss of the last message of each chat, given the ones before."""
    import torch

    nats, tokens, size = 0.0, 0, 0
    for chat in chats:
        messages = chat["messages"]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        asked = tokenizer.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(whole, add_special_tokens=False, return_tensors="pt").input_ids
        start = len(tokenizer(asked, add_special_tokens=False).input_ids)
        logits = model(input_ids=ids).logits[0, start - 1 : -1].float()  # (answer tokens, vocab)
        wanted = ids[0, start:]  # (answer tokens,)
        nats += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        tokens += len(wanted)
        size += len(whole[len(asked) :].encode())
    return Loss(nats_per_token=nats / tokens, bits_per_byte=nats / math.log(2) / size)
