"""Columns: which format a file has, by the names of its columns.

Pure, below `reading`. Names that other tools use (`conversations`, `instruction`, `response`) are
understood; what the dataset names itself comes first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_api.plan import PlannedColumns
from finetune_api.resource import DatasetFormat
from finetune_text.rows.column_census import shown_name
from finetune_text.rows.records import TEXT_COLUMN

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
INSTRUCTION_COLUMNS = ("instruction",)
INPUT_COLUMNS = ("input", "context", "passage")
OUTPUT_COLUMNS = ("output", "response", "completion", "answer")
PROMPT_COLUMNS = ("prompt", "question", "query")
COMPLETION_COLUMNS = ("completion", "response", "answer", "output")
TEXT_COLUMNS = (TEXT_COLUMN, "content")
SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
HISTORY_COLUMN = "history"
"""Earlier turns: a list of pairs of question and answer, as LLaMA-Factory and ms-swift write it."""
_PAIR_COMPANIONS = frozenset({"tools", *INPUT_COLUMNS, *SYSTEM_COLUMNS, HISTORY_COLUMN})
COMPANION_COLUMNS: Mapping[DatasetFormat, frozenset[str]] = {
    DatasetFormat.CHAT: frozenset({"tools", *SYSTEM_COLUMNS}),
    DatasetFormat.INSTRUCTION: _PAIR_COMPANIONS,
    DatasetFormat.PROMPT_COMPLETION: _PAIR_COMPANIONS,
    DatasetFormat.TEXT: frozenset(),
}
"""Columns that are read beside those of the format, if a row has them. A row whose companion cannot be
used (a passage that is no text, a second system message) leaves it unread, and it is named as such."""
ALLOWED_COLUMNS = (
    "messages or conversations, instruction with output, prompt with completion, or text"
)

MOST_NAMES = 12
"""Names of columns in a message: those of a row that is meant for people are fewer."""


@dataclass(frozen=True)
class Reading:
    """How the rows of a file are read."""

    format: DatasetFormat
    """Never Auto."""
    columns: PlannedColumns

    @property
    def read_columns(self) -> frozenset[str]:
        """Names of every column that is read of a row, companions included."""
        named = self.columns.model_dump(exclude_none=True).values()
        return frozenset(named) | COMPANION_COLUMNS[self.format]


def decide_reading(
    columns: Sequence[str], *, wanted: DatasetFormat, named: PlannedColumns
) -> Reading | None:
    """Return how rows with these columns are read, or None where the columns do not fit."""
    candidates = (
        _chat_columns(columns, named),
        _instruction_columns(columns, named),
        _prompt_columns(columns, named),
        _text_columns(columns, named),
    )
    for reading in candidates:
        if reading is not None and wanted in (DatasetFormat.AUTO, reading.format):
            return reading
    return None


def _pick(columns: Sequence[str], named: str | None, usual: Sequence[str]) -> str | None:
    if named is not None:
        return named if named in columns else None
    return next((name for name in usual if name in columns), None)


def _chat_columns(columns: Sequence[str], named: PlannedColumns) -> Reading | None:
    messages = _pick(columns, named.messages, MESSAGE_COLUMNS)
    if messages is None or (named.messages is None and _names_others(named)):
        return None
    return Reading(DatasetFormat.CHAT, PlannedColumns(messages=messages))


def _instruction_columns(columns: Sequence[str], named: PlannedColumns) -> Reading | None:
    # Without an instruction column of the usual name this is a plain prompt with its completion.
    usual = () if "instruction" not in columns else INSTRUCTION_COLUMNS
    prompt = _pick(columns, named.prompt, usual)
    completion = _pick(columns, named.completion, OUTPUT_COLUMNS)
    if prompt is None or completion is None or named.text or named.messages:
        return None
    if prompt not in INSTRUCTION_COLUMNS:
        return None
    return Reading(DatasetFormat.INSTRUCTION, PlannedColumns(prompt=prompt, completion=completion))


def _prompt_columns(columns: Sequence[str], named: PlannedColumns) -> Reading | None:
    prompt = _pick(columns, named.prompt, (*PROMPT_COLUMNS, *INSTRUCTION_COLUMNS, "input"))
    usual = [name for name in COMPLETION_COLUMNS if name != prompt]
    completion = _pick(columns, named.completion, usual)
    if prompt is None or completion is None or named.text or named.messages:
        return None
    return Reading(
        DatasetFormat.PROMPT_COMPLETION, PlannedColumns(prompt=prompt, completion=completion)
    )


def _text_columns(columns: Sequence[str], named: PlannedColumns) -> Reading | None:
    text = _pick(columns, named.text, TEXT_COLUMNS)
    if text is None or (named.text is None and _names_others(named)):
        return None
    return Reading(DatasetFormat.TEXT, PlannedColumns(text=text))


def _names_others(named: PlannedColumns) -> bool:
    return any((named.messages, named.prompt, named.completion, named.text))


def list_columns(columns: Sequence[str]) -> str:
    """Return the names for a message, however many they are and whatever they hold."""
    shown = [shown_name(name) for name in sorted(columns)[:MOST_NAMES]]
    more = [f"{len(columns) - MOST_NAMES:,} more"] if len(columns) > MOST_NAMES else []
    return ", ".join([*shown, *more])
