"""The census of columns: which columns of a dataset have values that nothing reads.

Rule: a column is read, or its name is known to say nothing of what is learned, or it is named once with
the number of rows that have a value in it. Between `reading`, which counts, and whatever reports.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune_text.counting import count_of
from finetune_text.files.language_names import match_languages, parse_language, parse_tag
from finetune_text.rows.loss_marks import RowMarks

MEANINGLESS_COLUMNS = frozenset(
    [
        "id",
        "_id",
        "idx",
        "index",
        "no",
        "uuid",
        "guid",
        "key",
        "row",
        "row_id",
        "doc_id",
        "docid",
        "document_id",
        "example_id",
        "sample_id",
        "conversation_id",
        "chat_id",
        "session_id",
        "thread_id",
        "message_id",
        "question_id",
        "problem_id",
        "task_id",
        "pageid",
        "revid",
        "hash",
        "sha1",
        "sha256",
        "md5",
        "checksum",
        "url",
        "uri",
        "link",
        "href",
        "source",
        "src",
        "source_dataset",
        "origin",
        "dataset",
        "dataset_name",
        "data_source",
        "license",
        "licence",
        "copyright",
        "author",
        "authors",
        "timestamp",
        "date",
        "datetime",
        "time",
        "created",
        "created_at",
        "updated",
        "updated_at",
        "crawl",
        "crawl_date",
        "dump",
        "file",
        "filename",
        "file_name",
        "file_path",
        "path",
        "line",
        "line_number",
        "token_count",
        "num_tokens",
        "n_tokens",
        "tokens_count",
        "length",
        "len",
        "word_count",
        "num_words",
        "char_count",
        "num_chars",
        "__index_level_0__",
        "model",
        "generator",
    ]
)
"""Names, in lower case, of what tools write beside a text: where it came from, how long it is."""
LANGUAGE_COLUMNS = frozenset(
    ["lang", "language", "lang_code", "language_code", "lang_id", "locale", "langcode"]
)
SPLIT_COLUMNS = frozenset(["split", "subset", "partition"])
SHOWN_VALUES_COLUMNS = (
    LANGUAGE_COLUMNS
    | SPLIT_COLUMNS
    | frozenset(
        [
            "label",
            "weight",
            "train",
            "mask",
            "loss_mask",
            "score",
            "rating",
            "quality",
            "is_correct",
            "chosen",
        ]
    )
)
"""Columns whose values are shown: each changes what a row means."""
MOST_COLUMNS = 1_000
"""Columns that are counted; rows that each bring names of their own must not fill the memory."""
MOST_VALUES = 20
"""Different values of a column that are counted."""
MOST_VALUE_CHARACTERS = 24
SHOWN_VALUES = 4
SHOWN_COLUMNS = 5
MOST_NAME_CHARACTERS = 40
FIELD_PREFIX = "messages[]."
"""Before the name of a message's field, which is counted as a column is."""
_EMPTY: tuple[object, ...] = (None, "", [], {}, ())


@dataclass(frozen=True)
class UnreadColumn:
    """A column with values that nothing reads."""

    name: str
    rows: int
    """Rows that have a value in it."""
    of_rows: int
    """Rows of the dataset."""
    source: str
    """`<uri> line <n>` of the first of them."""
    values: str = ""
    """The commonest values with their counts, if they are few and short."""

    def describe(self) -> str:
        """Return the column with its counts; continues "`<source>` has ..." in a report."""
        values = f" ({self.values})" if self.values else ""
        return (
            f"column {shown_name(self.name)!r} has a value in {self.rows:,} of"
            f" {count_of(self.of_rows, 'row')}{values} and is not read"
        )


@dataclass(frozen=True)
class MarkCount:
    """How often one loss mark was obeyed."""

    name: str
    file: str
    line: int
    """Of the first."""
    rows: int = 0
    marks: int = 0
    """Messages, and rows that are marked as a whole."""

    def plus(self, marks: int) -> "MarkCount":
        """Return the count with one row more."""
        return replace(self, rows=self.rows + 1, marks=self.marks + marks)

    def describe(self, *, of_rows: int) -> str:
        """Return the count as a sentence."""
        what = count_of(self.marks, "row or message", plural="rows or messages")
        name = self.file.rpartition("/")[2]
        return (
            f"The loss mark {shown_name(self.name)!r} takes the loss from {what}, in {self.rows:,} of"
            f" {count_of(of_rows, 'row')} (first in {name} line {self.line})."
        )


def is_blank(value: object) -> bool:
    """Return whether a value says nothing: null, an empty text, an empty list or object."""
    return value in _EMPTY


class ColumnCensus:
    """Counts the columns of one dataset while its rows are read."""

    def __init__(self, tag: str) -> None:
        """Take the BCP 47 tag of the dataset: a language column that names it alone says nothing new."""
        self._tag = tag
        self._rows = 0
        self._filled: dict[str, int] = {}
        self._first: dict[str, tuple[str, int]] = {}
        self._values: dict[str, Counter[str]] = {}
        self._marked: dict[str, MarkCount] = {}

    def add(
        self,
        values: Mapping[str, Any],
        *,
        read: Collection[str],
        file: str,
        line: int,
        marks: RowMarks | None = None,
    ) -> None:
        """Count one row.

        Args:
            values: The row.
            read: Names of the columns that are read of it.
            marks: What its loss marks say, if they were read.
            file: What messages call the file.
            line: Line on which the row begins.
        """
        self._rows += 1
        if marks is not None:
            self._add_marks(marks, file=file, line=line)
        filled = self._filled
        for name, value in values.items():
            if name in read or value is None or value == "":
                continue
            if name in filled:
                filled[name] += 1
            elif (
                len(filled) >= MOST_COLUMNS
                or name.lower() in MEANINGLESS_COLUMNS
                or value in _EMPTY
            ):
                continue
            else:
                filled[name] = 1
                self._first[name] = (file, line)
            if name.lower() in SHOWN_VALUES_COLUMNS:
                self._count_value(name, value)

    def _add_marks(self, marks: RowMarks, *, file: str, line: int) -> None:
        for name, messages in marks.obeyed.items():
            earlier = self._marked.get(name, MarkCount(name, file=file, line=line))
            self._marked[name] = earlier.plus(messages)
        for field in marks.unread:
            name = f"{FIELD_PREFIX}{field}"
            if name in self._filled or len(self._filled) < MOST_COLUMNS:
                self._filled[name] = self._filled.get(name, 0) + 1
                self._first.setdefault(name, (file, line))

    def describe(self) -> Iterator[str]:
        """Yield what the loss marks take from the training, and which columns are not read."""
        for mark in self._marked.values():
            yield mark.describe(of_rows=self._rows)
        yield from describe_columns(self.unread())

    def _count_value(self, name: str, value: object) -> None:
        counts = self._values.setdefault(name, Counter())
        shown = str(value) if isinstance(value, str | int | float) else "…"
        shown = shown if len(shown) <= MOST_VALUE_CHARACTERS and shown.isprintable() else "…"
        if shown in counts or len(counts) < MOST_VALUES:
            counts[shown] += 1

    def unread(self) -> tuple[UnreadColumn, ...]:
        """Return the columns that nothing reads, those with most values first."""
        found = (
            UnreadColumn(
                name=name,
                rows=rows,
                of_rows=self._rows,
                source=f"{self._first[name][0]} line {self._first[name][1]}",
                values=self._describe_values(name),
            )
            for name, rows in self._filled.items()
            if not self._says_nothing_new(name)
        )
        return tuple(sorted(found, key=lambda column: (-column.rows, column.name)))

    def _says_nothing_new(self, name: str) -> bool:
        values, lowered = self._values.get(name, Counter()), name.lower()
        if lowered in LANGUAGE_COLUMNS:
            wanted = parse_tag(self._tag)
            return wanted is not None and all(
                (language := parse_language(value)) is not None
                and bool(match_languages(wanted, [language]))
                for value in values
            )
        return lowered in SPLIT_COLUMNS and set(values) <= {"train", "training"}

    def _describe_values(self, name: str) -> str:
        counts = self._values.get(name)
        if not counts:
            return ""
        shown = [f"{value} {count:,}" for value, count in counts.most_common(SHOWN_VALUES)]
        more = [f"{len(counts) - SHOWN_VALUES} more"] if len(counts) > SHOWN_VALUES else []
        return ", ".join([*shown, *more])


def describe_columns(columns: tuple[UnreadColumn, ...]) -> Iterator[str]:
    """Yield one sentence about all columns that are not read; nothing if there is none."""
    if len(columns) == 1:
        # The file's name alone: the sentence is kept with equal content under another URI.
        first = columns[0].source.rpartition("/")[2]
        yield f"{_capitalise(columns[0].describe())} (first in {first})."
    elif columns:
        named = [_name(column) for column in columns[:SHOWN_COLUMNS]]
        more = [f"{len(columns) - SHOWN_COLUMNS:,} more"] if len(columns) > SHOWN_COLUMNS else []
        yield (
            f"{len(columns):,} columns have values and are not read, of"
            f" {count_of(columns[0].of_rows, 'row')}: {', '.join([*named, *more])}."
        )


def _name(column: UnreadColumn) -> str:
    values = f": {column.values}" if column.values else ""
    return f"{shown_name(column.name)} ({column.rows:,}{values})"


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def shown_name(name: str) -> str:
    """Return a column's name for a message, whatever it holds and however long it is."""
    shown = name.encode("utf-8", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)
    return shown if len(shown) <= MOST_NAME_CHARACTERS else f"{shown[:MOST_NAME_CHARACTERS]}…"
