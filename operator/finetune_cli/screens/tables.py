"""How every command draws: tables for the terminal, tables in Markdown, documents as JSON or YAML.

The other rendering modules fill these forms; nothing here knows what a row means.
"""

import json
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import yaml
from pydantic import JsonValue
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDE = 110
"""Columns from which a table shows what a narrower one leaves out or puts below."""
NARROW = 72
"""Columns below which sentences stand under what they are about instead of beside it."""
AUTOMATIC = "automatic"
"""What a null value is called in tables: it is decided once the data is known."""


def as_json(document: Any) -> str:
    """Return a document as JSON for people and programs."""
    return json.dumps(document, indent=2, ensure_ascii=False)


def as_yaml(document: Any) -> str:
    """Return a document as YAML."""
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text.rstrip("\n")


def terminal_table(title: str, *, expand: bool = True) -> Table:
    """Return an empty table in the house's look: a title, a rule below the head, no frame.

    Args:
        title: What stands above it.
        expand: Whether it fills the console's width; tables of figures are better without.
    """
    return Table(
        title=title,
        title_justify="left",
        title_style="bold cyan",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        expand=expand,
        show_edge=False,
        header_style="dim",
    )


class TableLayout(Enum):
    """How a page is laid out, by the width of the terminal."""

    WIDE = "wide"
    NORMAL = "normal"
    STACKED = "stacked"
    """One thing below the other: a column of sentences would be too narrow to read."""

    @classmethod
    def of(cls, width: int) -> "TableLayout":
        """Return the layout for a number of columns."""
        if width < NARROW:
            return cls.STACKED
        return cls.WIDE if width >= WIDE else cls.NORMAL


def stacked(title: str, entries: Iterable[tuple[Text, Text]]) -> RenderableType:
    """Return a section in which each sentence stands, indented, below what it is about."""
    lines: list[RenderableType] = [Text(title, style="bold cyan")]
    for about, reported in entries:
        lines.append(about)
        if reported.plain:
            lines.append(Padding(reported, (0, 0, 0, 2)))
    return Group(*lines)


def spaced(part: RenderableType) -> RenderableType:
    """Return a part with an empty line above it."""
    return Padding(part, (1, 0, 0, 0))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [list(head), ["---"] * len(head), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


def value_text(value: JsonValue) -> str:
    """Return a value as a person reads it: JSON, but lists without brackets."""
    if value is None:
        return AUTOMATIC
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
