"""How every command draws: tables for the terminal, tables in Markdown, documents as JSON or YAML.

The other rendering modules fill these forms; nothing here knows what a row means.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from pydantic import JsonValue
from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table

WIDE = 110
"""Columns from which a table shows what a narrow one leaves out or puts below."""
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
