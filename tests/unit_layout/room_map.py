"""The map of rooms in CONTRIBUTING.md: every package and folder with the first sentence of its docstring.

`python -m tests.unit_layout.room_map` writes it; a test holds it equal to the tree.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN = "<!-- map: written by `python -m tests.unit_layout.room_map` -->\n"
END = "<!-- end of map -->\n"
PACKAGES = (
    "operator/finetune_api",
    "operator/finetune_resolver",
    "operator/finetune_operator",
    "operator/finetune_cli",
    "trainer-image/finetune_text",
    "trainer-image/finetune_trainer",
)
"""In the order of the flow."""


def build_map() -> str:
    """Return the map as Markdown, with one line for each room.

    Raises:
        SystemExit: a room has no `__init__.py` with a docstring.
    """
    lines = [line for package in PACKAGES for line in _describe(ROOT / package)]
    return BEGIN + "```\n" + "\n".join(lines) + "\n```\n" + END


def read_map() -> str:
    """Return the map that stands in the page."""
    page = PAGE.read_text(encoding="utf-8")
    return BEGIN + page.partition(BEGIN)[2].partition(END)[0] + END


def write_map() -> None:
    """Replace the map in the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(read_map(), build_map()), encoding="utf-8")


def _describe(room: Path, depth: int = 0) -> list[str]:
    label = "  " * depth + (str(room.relative_to(ROOT)) if depth == 0 else f"{room.name}/")
    lines = [f"{label:<32} {_first_sentence(room)}"]
    for child in sorted(path.parent for path in room.glob("*/__init__.py")):
        lines += _describe(child, depth + 1)
    return lines


def _first_sentence(room: Path) -> str:
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    if not docstring:
        sys.exit(f"{room}/__init__.py has no docstring: say in one sentence what the room is for.")
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    write_map()
