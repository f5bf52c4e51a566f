"""A model's tokenizer without transformers: tokenizer.json with the chat template beside it.

For callers that only count tokens; the trainer trains with transformers' own. Importing that loads torch,
twelve seconds on a small machine, and a laptop may have neither. What is here does what transformers
does for a tokenizer.json, and a test compares the two token by token on the families in use.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from finetune_text.errors import TextInvalid

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIALS_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = ("additional_special_tokens", "extra_special_tokens")
"""Lists of special tokens without a name of their own; the newer name is the second."""


class FastTokenizer:
    """The part of a transformers tokenizer that `sequences` and `chat_rendering` use."""

    def __init__(
        self, tokenizer: Tokenizer, *, config: Mapping[str, Any], template: str | None
    ) -> None:
        """Take the tokenizer, what its config says of special tokens, and its chat template."""
        self.backend = tokenizer
        self.chat_template = template
        self._with_tools = _template_named(config, "tool_use")
        self._named = {name: text for name in NAMED if (text := _text_of(config.get(name)))}
        extra = [_text_of(token) for name in EXTRA for token in _as_list(config.get(name))]
        every = [*self._named.values(), *(token for token in extra if token)]
        self.all_special_tokens = list(dict.fromkeys(every))
        self.backend.add_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token in self.all_special_tokens
                if self.backend.token_to_id(token) is None
            ]
        )
        if str(config.get("tokenizer_class", "")).startswith("LlamaTokenizer"):
            _rebuild_as_llama(self.backend, legacy=config.get("legacy") is True)
        self.backend.no_truncation()
        self.backend.no_padding()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Tokens by id that are found before a text is split."""
        return dict(self.backend.get_added_tokens_decoder())

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text, or None."""
        eos = self._named.get("eos_token")
        return None if eos is None else self.backend.token_to_id(eos)

    def __len__(self) -> int:
        """Return the number of tokens, added ones included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def __call__(
        self, texts: Sequence[str], *, add_special_tokens: bool, **_: Any
    ) -> dict[str, list[Any]]:
        """Return ids and offsets of texts; other options of transformers say what is so anyway."""
        encoded = self.backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return {
            "input_ids": [each.ids for each in encoded],
            "offset_mapping": [each.offsets for each in encoded],
        }

    def convert_ids_to_tokens(self, token_id: int) -> str | None:
        """Return the text of a token."""
        return self.backend.id_to_token(token_id)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Return the id of a token, or None where there is none."""
        return self.backend.token_to_id(token)

    def apply_chat_template(
        self, conversation: Any, *, tools: Any = None, tokenize: bool = False, **options: Any
    ) -> str:
        """Render a conversation as text."""
        del tokenize
        template = self._with_tools if tools and self._with_tools else self.chat_template
        rendered: str = _compile(template or "").render(
            messages=conversation, tools=tools, documents=None, **{**self._named, **options}
        )
        return rendered


def load_fast_tokenizer(folder: Path, *, source: str) -> FastTokenizer:
    """Return the tokenizer of a folder with tokenizer.json.

    Args:
        folder: Where the files are.
        source: What messages call the model.

    Raises:
        TextInvalid: There is none, or a file of it is broken.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise TextInvalid(
            f"The model {source} has no {TOKENIZER_FILE}: expected one beside its config.json;"
            " convert the tokenizer with save_pretrained and try again.",
            reason="TokenizerInvalid",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    # NB: the library raises bare exceptions for whatever is wrong with the file.
    except Exception as fault:
        said = str(fault).partition("\n")[0][:200]
        raise TextInvalid(
            f"The tokenizer of {source} cannot be loaded ({said}): expected a {TOKENIZER_FILE} that"
            " tokenizers can read; upload it again and apply again.",
            reason="TokenizerInvalid",
        ) from fault
    specials = load_json(folder / SPECIALS_FILE)
    config = {**specials, **load_json(folder / CONFIG_FILE)}
    try:
        template = _find_template(folder, config)
    except UnicodeDecodeError as fault:
        raise TextInvalid(
            f"The {TEMPLATE_FILE} of {source} is not UTF-8 (byte {fault.start}): expected a text; upload"
            " it again and apply again.",
            reason="TokenizerInvalid",
        ) from fault
    return FastTokenizer(tokenizer, config=config, template=template)


def load_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty where it is absent or broken."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _rebuild_as_llama(tokenizer: Tokenizer, *, legacy: bool) -> None:
    """Split at spaces as transformers' class of that name does, whatever tokenizer.json says.

    That class takes the vocabulary alone out of the file; the normalizer that older files hold puts
    one token more before a text that begins with a space.
    """
    if tokenizer.pre_tokenizer is None and isinstance(tokenizer.model, models.BPE):
        tokenizer.normalizer = None
        scheme = "always" if legacy else "first"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


def _find_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    written = config.get("chat_template")
    return written if isinstance(written, str) else _template_named(config, "default")


def _template_named(config: Mapping[str, Any], name: str) -> str | None:
    """Return one of several templates, which a config lists as `{name, template}`."""
    for each in _as_list(config.get("chat_template")):
        if isinstance(each, Mapping) and each.get("name") == name:
            return str(each.get("template"))
    return None


def _as_list(value: object) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _text_of(token: object) -> str | None:
    """Return a token's text, which older files write inside an object."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) and text else None


# --- Templates ----------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    # The environment that chat templates are written for: theirs rely on its trimming of blocks.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(template)


class _Generation(jinja2.ext.Extension):  # type: ignore[misc]  # mypy skips jinja2
    """Takes `{% generation %}`, which marks answers for others, and changes nothing."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Any) -> Any:
        """Return the block's own content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 -- templates call it by position too
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    # Jinja's own filter escapes what is special in HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
