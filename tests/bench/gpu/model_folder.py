"""A base model as a folder: config, random weights and a tokenizer, made without network.

    python -m tests.bench.gpu.model_folder SHAPE FOLDER DEVICE

The tokenizer splits at spaces and knows `w3`, `w4`, … as the tokens 3, 4, …; with it `corpus` can say
in text exactly which tokens a document has.
"""

import sys
from pathlib import Path
from typing import Any

from tests.bench.gpu.corpus import END_ID, PAD_ID, SPECIAL_TOKENS
from tests.bench.gpu.shapes import SHAPES, Shape

SHARD_SIZE = "4GB"


def write_model(shape: Shape, folder: Path, *, device: str, dtype: str = "bfloat16") -> Path:
    """Write the model below `folder` and return the folder."""
    # Heavy: the driver of a suite never imports it.
    import torch
    import transformers

    config_type, model_type = {
        "Llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "Gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    }[shape.family]
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(shape).save_pretrained(folder)
    config = config_type(
        **shape.config(),
        dtype=dtype,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        network = model_type(config)
    network.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    torch.set_default_dtype(torch.float32)
    return folder


def build_tokenizer(shape: Shape) -> Any:
    """Return a tokenizer of one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIAL_TOKENS, *(f"w{each}" for each in range(3, shape.vocab_size))]
    words = models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        model_max_length=shape.max_position_embeddings,
    )


def main() -> int:
    """Write the model that the arguments name: shape, folder, device."""
    name, folder, device = sys.argv[1:]
    dtype = "float32" if device == "cpu" else "bfloat16"
    write_model(SHAPES[name], Path(folder), device=device, dtype=dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())
