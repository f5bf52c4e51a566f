"""Which files of a model folder are the model, and what it lacks to be one.

Pure: names in, names out, the same for a hub, a prefix in S3 and a claim. Weights are safetensors
and nothing else, because a pickle runs code when it is read; the same weights in other formats,
optimizer states and pictures stay where they are.
"""

from collections.abc import Collection
from fnmatch import fnmatch

from finetune_trainer.errors import DataInvalid, NotFound

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
TEXT_PATTERNS = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
"""Config, tokenizer, chat template and their like; weights are decided apart."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
TOKENIZERS: tuple[frozenset[str], ...] = (
    frozenset({"tokenizer.json"}),
    frozenset({"tokenizer.model"}),
    frozenset({"spiece.model"}),
    frozenset({"sentencepiece.bpe.model"}),
    frozenset({"vocab.json", "merges.txt"}),
    frozenset({"vocab.txt"}),
)
"""Sets of files of which one makes a tokenizer."""


def decide_model_files(
    names: Collection[str], *, source: str, trust_remote_code: bool = False
) -> tuple[str, ...]:
    """Return the names that make the model, sorted.

    Raises:
        NotFound: The config, the weights or the tokenizer are missing.
        DataInvalid: The weights are there as pickles only.
    """
    top = [name for name in names if "/" not in name and not name.startswith(".")]
    if CONFIG not in top:
        raise NotFound(_describe_missing_config(top, source=source), reason="ModelFileMissing")
    weights = _decide_weights(top, source=source)
    if not has_tokenizer(top):
        raise NotFound(
            f"The model at {source} has no tokenizer: expected tokenizer.json, tokenizer.model, or"
            " vocab.json with merges.txt beside its config.json; add the tokenizer's files and apply"
            " again.",
            reason="TokenizerMissing",
        )
    texts = [name for name in top if any(fnmatch(name, pattern) for pattern in TEXT_PATTERNS)]
    code = [name for name in top if trust_remote_code and name.endswith(".py")]
    templates = [name for name in names if fnmatch(name, "additional_chat_templates/*.jinja")]
    return tuple(sorted({*weights, *texts, *code, *templates}))


def has_tokenizer(names: Collection[str]) -> bool:
    """Tell whether a tokenizer can be loaded from these files."""
    present = set(names)
    return any(files <= present for files in TOKENIZERS) or any(
        name.endswith(".tiktoken") for name in names
    )


def decide_missing_shards(names: Collection[str], index: object, *, source: str) -> None:
    """Refuse a model whose index names weights that are not there.

    Raises:
        DataInvalid: The index is no index.
        NotFound: A file that it names is missing.
    """
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict):
        raise DataInvalid(
            f"{INDEX} of the model at {source} holds no weight_map: expected the names of its"
            " tensors and their files; upload the model again.",
            reason="ModelIndexInvalid",
        )
    missing = sorted({str(name) for name in shards.values()} - set(names))
    if missing:
        raise NotFound(
            f"The model at {source} lacks {_enumerate(missing)}, which its {INDEX} names; upload the"
            " missing files and apply again.",
            reason="ModelFileMissing",
        )


def _decide_weights(top: Collection[str], *, source: str) -> list[str]:
    """Return one set of weights where several say the same."""
    if INDEX in top:
        return [name for name in top if fnmatch(name, "model-*-of-*.safetensors")]
    if WEIGHTS in top:
        return [WEIGHTS]
    others = [name for name in top if name.endswith(".safetensors")]
    # Mistral's own format beside the usual one, and an adapter beside its base: neither is the model.
    others = [name for name in others if not name.startswith(("consolidated", "adapter_model"))]
    if others:
        return others
    pickles = [name for name in top if any(fnmatch(name, pattern) for pattern in PICKLES)]
    if pickles:
        raise DataInvalid(
            f"The model at {source} has its weights only as {_enumerate(pickles)}: expected"
            " .safetensors, because a pickle runs code when it is read; convert the weights with"
            " save_pretrained and apply again.",
            reason="WeightsNotSafetensors",
        )
    raise NotFound(
        f"The model at {source} has no weights: expected {WEIGHTS} or {INDEX} with its files; add"
        " them and apply again.",
        reason="ModelFileMissing",
    )


def _describe_missing_config(top: Collection[str], *, source: str) -> str:
    if "adapter_config.json" in top:
        return (
            f"{source} holds an adapter and no model: expected a base model with a {CONFIG}; name"
            " the adapter's base model and apply again."
        )
    if any(name.endswith(".gguf") for name in top):
        return (
            f"{source} holds GGUF files and no model in the Hugging Face layout: expected {CONFIG},"
            " .safetensors and a tokenizer; name the original model and apply again."
        )
    return (
        f"The model at {source} has no {CONFIG} (found {_enumerate(top) or 'no files'}): expected"
        f" {CONFIG}, .safetensors and a tokenizer; correct the URI and apply again."
    )


def _enumerate(names: Collection[str], *, most: int = 3) -> str:
    shown = sorted(names)[:most]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
