"""What was measured of a resource's text, in the form that fits a termination message.

The Measure pod writes a `Profile` into its `Outcome`, and the whole of what it found as profile.json
into S3; the operator turns the profile into measurements and status. Inside an outcome a language is
a row of numbers without names (`ROW`), and where even those are too many the whole is compressed:
16 languages fit beside everything else, whatever their numbers. Pure, and without any knowledge of what a number means.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, JsonValue

from finetune_api.strict import Strict

PROFILE_SCHEMA: Literal[1] = 1
CANDIDATE_LENGTHS: Final = (512, 1024, 2048, 4096, 8192)
"""Lengths, in tokens, for which cut examples are counted."""
COUNTED_LENGTHS: Final = frozenset(
    {
        *range(128, 2048, 128),
        *range(2048, 4096, 256),
        *range(4096, 8192, 512),
        *(2**power for power in range(13, 18)),
    }
)
"""Lengths for which every profile knows what is left of the text; for another one the measure plan asks
(`MeasurePlan.max_seq_length`). As fine as one termination message holds for one language."""
CONTENT_CHARACTERS: Final = 12
"""Of a text's SHA-256, in hex: enough to see that two texts differ; profile.json has all 64."""
MAX_LANGUAGES: Final = 16

DECIMALS: Final = 4
Decimal = Annotated[float, AfterValidator(lambda value: round(value, DECIMALS))]
"""A measured ratio; more digits would be noise."""
# The bounds are what fits a termination message sixteen times, and more than one pod can read.
MOST_COUNTED: Final = 10**8 - 1
"""Rows of one kind that a profile tells; where there are more it tells this many."""
Rows = Annotated[int, Field(ge=0, le=MOST_COUNTED)]
Amount = Annotated[int, Field(ge=0, lt=10**11)]
Length = Annotated[int, Field(ge=0, lt=10**8)]


class KeptAtLength(NamedTuple):
    """What is left of the training text when each example is cut at one length, as the trainer cuts it.

    A row of numbers, because sixteen languages share one termination message.
    """

    length: Length
    """Tokens that an example keeps at most."""
    truncated: Rows
    """Examples that are longer."""
    unlearnable: Rows
    """Examples without a token to learn within the length; they are not trained on."""
    tokens: Amount
    """Tokens that are trained on: of the other examples, each cut at the length."""
    supervised_tokens: Amount | None = None
    """Of them, those that carry loss; None where the text has too many answers to remember each."""


MOST_NOTES: Final = 6
NOTE_CHARACTERS: Final = 320
Note = Annotated[str, Field(max_length=NOTE_CHARACTERS)]
"""A sentence about files or columns."""
MOST_FIRST_PLACES: Final = 16
PLACE_CHARACTERS: Final = 120
FirstPlace = Annotated[str, Field(max_length=PLACE_CHARACTERS)]
"""A kind of finding, a space, and where the first of them is: `EmptyRow a.jsonl line 5`."""


class LanguageProfile(Strict):
    """What was measured of one language's text. Rows are those of the files that are trained on."""

    tag: str = Field(max_length=35)
    content: str = Field(default="", max_length=CONTENT_CHARACTERS)
    """Begin of the SHA-256 over the contents of all its files."""
    examples: Rows
    """Examples to train on: neither empty, nor held out, nor malformed."""
    unique_examples: Rows
    """Those without exact (F8) and near (F9) duplicates of an earlier one."""
    tokens: Amount
    """Of the examples, uncut, chat template included."""
    unique_tokens: Amount
    """Of the unique examples."""
    supervised_tokens: Amount
    """Tokens of the examples that carry loss."""
    p50: Length
    """Nearest rank of the examples' lengths in tokens, chat template included."""
    p95: Length
    p99: Length
    longest: Length
    characters: Amount
    """Of the text that carries loss, without what ends a turn."""
    text_tokens: Amount
    """Tokens of that text."""
    text_bytes: Amount
    """UTF-8 bytes of that text."""
    words: Amount | None = None
    """Runs of letters, marks and digits in all text of the examples; None for scripts without spaces."""
    mattr500: Decimal | None = None
    """Moving-average type-token ratio over 500 words, 0 to 1; None where there are fewer words."""
    script: str = Field(default="", max_length=4)
    """The script (ISO 15924) that most letters are of; empty without letters."""
    script_share: Decimal | None = None
    """Share of letters in the tag's own script, 0 to 1; None where the tag tells none (F11)."""
    code_mixing_index: Decimal | None = None
    """Mean over examples by the scripts of their words, 0 to 100; None without words (F10)."""
    duplicates: Rows = 0
    """Examples whose folded text stands in an earlier one (F8)."""
    near_duplicates: Rows = 0
    """Examples that are nearly an earlier one and no exact duplicate (F9)."""
    validation_examples: Rows = 0
    """Examples held out."""
    overlap: Rows = 0
    """Held-out examples whose folded text is trained on too."""
    unsupervised: Rows = 0
    """Examples without a token to learn, at any length."""
    empty: Rows = 0
    """Rows with nothing to learn, reported and not trained."""
    invalid: Rows = 0
    """Rows that break a rule; training refuses such a file."""
    mojibake: Rows = 0
    """Examples with text that was decoded wrongly, or with characters that were lost."""
    truncated: tuple[Rows, ...] | None = None
    """Examples longer than each of `CANDIDATE_LENGTHS`."""
    unmeasured: Rows | None = None
    """Rows that were only counted, because there are so many; no other number holds them. None: none."""
    uncompared: Rows | None = None
    """Rows for which no near duplicate was sought, because there are so many; None: none."""
    kept: tuple[KeptAtLength, ...] | None = None
    """What is left at the lengths that the run may have, shortest first: lengths that cut an example, and
    the longest example's. None: it was not counted."""

    notes: tuple[Note, ...] | None = Field(default=None, max_length=MOST_NOTES)
    """Files and columns that are not read, a sentence for each kind; None: none."""
    first_places: tuple[FirstPlace, ...] | None = Field(default=None, max_length=MOST_FIRST_PLACES)
    """Where the first finding of each kind is; None: no finding has a line."""
    skipped: Rows | None = None
    """Rows that break a rule and are left out, as dataset.onBadRow says; None: none."""

    def first_place(self, kind: str) -> str:
        """Return where the first finding of a kind is, such as `a.jsonl line 5`; empty if unknown."""
        reported = (place.partition(" ") for place in self.first_places or ())
        return next((where for name, _, where in reported if name == kind), "")

    @property
    def characters_per_token(self) -> float | None:
        """Characters of a token (F2), or None without tokens."""
        return self.characters / self.text_tokens if self.text_tokens else None

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of a token (F3), or None without tokens."""
        return self.text_bytes / self.text_tokens if self.text_tokens else None

    def longer_than(self, length: int) -> int | None:
        """Return how many examples are longer, or None where that was not counted."""
        if length >= self.longest:
            return 0
        kept = self.kept_at(length)
        if kept is not None:
            return kept.truncated
        counted = zip(CANDIDATE_LENGTHS, self.truncated or (), strict=False)
        return dict(counted).get(length)

    def kept_at(self, length: int) -> KeptAtLength | None:
        """Return what is left of the examples at a length, or None if that was not counted."""
        effective = min(length, self.longest)
        counted = next((one for one in self.kept or () if one.length == effective), None)
        if counted is not None or length < self.longest or self.unsupervised:
            return counted
        return KeptAtLength(self.longest, 0, 0, self.tokens, self.supervised_tokens)

    def without_detail(self) -> Self:
        """Return the profile without what only profile.json must tell."""
        notes = (NOTES_ELSEWHERE,) if self.notes else None
        return self.model_copy(
            update={"content": "", "truncated": None, "first_places": None, "notes": notes}
        )

    def without_lengths(self) -> Self:
        """Return the profile without what each length leaves."""
        return self.model_copy(update={"kept": None})


NOTES_ELSEWHERE: Final = "Files or columns are not read; profile.json names them."


def merge_notes(*parts: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return sentences as a profile keeps them, each cut to its limit; None if there is none."""
    notes = [cut_note(note, limit=NOTE_CHARACTERS) for part in parts for note in part or ()]
    if len(notes) > MOST_NOTES:
        notes = [*notes[: MOST_NOTES - 1], NOTES_ELSEWHERE]
    return tuple(notes) or None


def cut_note(text: str, *, limit: int) -> str:
    """Return a text, or its beginning if it has more than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class TokenizerProfile(Strict):
    """The tokenizer that counted."""

    sha256: str = Field(min_length=64, max_length=64)
    """Over the contents of tokenizer.json, or of what stands for it, and the chat template."""
    family: str = Field(default="", max_length=32)
    """Name of a family whose vocabulary this is, such as llama31; empty where it is none we know."""
    vocabulary: int = Field(ge=0, lt=10**8)
    """Tokens, added ones included."""
    english_bytes_per_token: Decimal | None = None
    """UTF-8 bytes of a token of English prose, to compare other languages with."""


_TEXT_KEYS: Final = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
)
_OUTER_KEYS: Final = ("model_type", "tie_word_embeddings", "is_encoder_decoder")
_TOWERS: Final = ("vision_config", "audio_config")
"""Only whether they are there counts."""


def pick_config_facts(config: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Return the part of a config.json that tells the model's shape, in the same form."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        return _pick(config, (*_TEXT_KEYS, *_OUTER_KEYS)) | _towers(config)
    return {**_pick(config, _OUTER_KEYS), **_towers(config), "text_config": _pick(text, _TEXT_KEYS)}


def find_context(config: Mapping[str, Any]) -> int | None:
    """Return the longest sequence that a model of these facts reads, or None if they do not say."""
    text = config.get("text_config")
    length = (text if isinstance(text, Mapping) else config).get("max_position_embeddings")
    is_size = isinstance(length, int) and not isinstance(length, bool) and length > 0
    return length if is_size else None


def _pick(holder: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, JsonValue]:
    """Return the values that are a number, a truth value or a word; others are no fact of a shape."""
    found = {key: holder[key] for key in keys if key in holder}
    return {key: value for key, value in found.items() if _is_fact(value)}


def _is_fact(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 40
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 10**9)


def _towers(config: Mapping[str, Any]) -> dict[str, JsonValue]:
    return {key: True for key in _TOWERS if config.get(key)}


class Profile(Strict):
    """What one Measure pod found."""

    schema_version: Literal[1] = PROFILE_SCHEMA
    tokenizer: TokenizerProfile
    model: dict[str, JsonValue] = Field(default_factory=dict)
    """The facts of config.json by its own names (`pick_config_facts`); empty where there was none."""
    languages: tuple[LanguageProfile, ...] = Field(max_length=MAX_LANGUAGES)
    """In the order of `spec.languages`."""

    def to_rows(self) -> dict[str, JsonValue]:
        """Return the profile with languages as rows of values without names."""
        whole = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        whole["languages"] = [_to_row(language) for language in self.languages]
        return whole

    def without_detail(self) -> Self:
        """Return the profile without what only profile.json must tell."""
        languages = tuple(language.without_detail() for language in self.languages)
        return self.model_copy(update={"languages": languages})

    def without_lengths(self) -> Self:
        """Return the profile without what each length leaves of the text."""
        languages = tuple(language.without_lengths() for language in self.languages)
        return self.model_copy(update={"languages": languages})

    def to_packed(self) -> dict[str, JsonValue]:
        """Return all of it under one name: base85 of deflated JSON."""
        rows = json.dumps(self.to_rows(), separators=(",", ":")).encode()
        return {PACKED: base64.b85encode(zlib.compress(rows, 9)).decode()}

    @classmethod
    def from_rows(cls, value: Any) -> Self:
        """Return the profile from any of its forms.

        Raises:
            ValueError: It is none of them.
        """
        if isinstance(value, cls):
            return value
        whole = _unpack(value)
        rows = whole.get("languages")
        if not isinstance(rows, list):
            raise ValueError("the languages of a profile are a list")  # noqa: TRY004 -- pydantic's own
        return cls.model_validate({**whole, "languages": [_from_row(row) for row in rows]})


ROW: Final = tuple(LanguageProfile.model_fields)
"""Order of a row's values; only ever added to at the end."""
PACKED: Final = "packed"
UNPACKED_LIMIT_BYTES: Final = 64 * 1024
"""Sixteen languages need a tenth of it."""


def _to_row(language: LanguageProfile) -> list[Any]:
    """Return the values in the order of `ROW`, without the empty ones at the end."""
    row = [getattr(language, name) for name in ROW]
    row = [list(value) if isinstance(value, tuple) else value for value in row]
    while row and row[-1] is None:
        row.pop()
    return row


def _from_row(row: Any) -> Any:
    return dict(zip(ROW, row, strict=False)) if isinstance(row, list) else row


def _unpack(value: Any) -> dict[str, Any]:
    packed = value.get(PACKED) if isinstance(value, dict) else None
    if isinstance(packed, str):
        try:
            deflated = base64.b85decode(packed)
            value = json.loads(zlib.decompressobj().decompress(deflated, UNPACKED_LIMIT_BYTES))
        except zlib.error as fault:
            raise ValueError("a packed profile cannot be inflated") from fault
    if not isinstance(value, dict):
        raise ValueError("a profile is an object")  # noqa: TRY004 -- pydantic takes a ValueError
    return value
