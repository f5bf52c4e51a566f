"""A plan, a model and rows small enough to train in a second, for the tests of the training half.

The weights are random and the rows are drawn from a seed: what is tested is the arithmetic.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.plan import TrainingPlan

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 320
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class TinyRow:
    """A tokenised row as the training half sees it."""

    input_ids: Sequence[int]
    labels: Sequence[int]
    source: str = "rows.jsonl:1"
    supervised_bytes: int = 1


def build_plan(**changes: Any) -> TrainingPlan:
    """Return a small CPU plan; `training__learning_rate=1` changes one value of one part."""
    plan: dict[str, Any] = {
        "identity": {"namespace": "ml", "name": "tiny", "uid": "u-1", "run": 1},
        "model": {"uri": "hf://org/tiny"},
        "datasets": [{"tag": "sw", "uri": "s3://corpora/sw/"}],
        "stage": "Instruction",
        "method": "LoRA",
        "policy": "Guide",
        "training": {
            "max_seq_length": 128,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "optimizer": "AdamW",
            "weight_decay": 0.01,
            "lr_scheduler": "Linear",
            "num_train_epochs": 1.0,
            "max_grad_norm": 1.0,
            "gradient_checkpointing": True,
            "flash_attention": True,
            "eval_strategy": "Steps",
            "save_strategy": "Epoch",
            "early_stopping_patience": 3,
            "seed": 42,
        },
        "lora": {
            "r": 8,
            "alpha": 16,
            "dropout": 0.0,
            "target_modules": TARGETS,
            "bias": "None",
        },
        "resources": {"gpus": 0},
        "output": {"uri": "s3://adapters"},
    }
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = plan
        for part in parts:
            place = place[part]
        place[last] = value
    return TrainingPlan.model_validate(plan).with_hash()


def build_rows(count: int, *, seed: int = 0, vocabulary: int = VOCABULARY) -> list[TinyRow]:
    """Return rows of 6 to 40 tokens that repeat themselves, so that there is something to learn."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        pattern = [draw.randrange(3, vocabulary) for _ in range(draw.randrange(2, 6))]
        length = draw.randrange(6, 40)
        ids = [pattern[place % len(pattern)] for place in range(length)]
        prompt = draw.randrange(1, 4)
        labels = [-100] * prompt + ids[prompt:]
        rows.append(
            TinyRow(ids, labels, source=f"rows.jsonl:{number + 1}", supervised_bytes=length)
        )
    return rows


def write_model(folder: Path, *, family: str = "llama") -> Path:
    """Write a two-layer model with random weights, and a byte-level tokenizer with a chat template."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        ["habari ya asubuhi", "karibu sana rafiki", "asante kwa msaada"],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config_type, model_type, changes = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
        "gemma3": (
            transformers.Gemma3TextConfig,
            transformers.Gemma3ForCausalLM,
            # Most rows are longer than the window.
            {"head_dim": 32, "sliding_window": 8, "sliding_window_pattern": 2},
        ),
    }[family]
    config = config_type(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )
    model_type(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
