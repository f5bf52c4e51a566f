"""Writes the table of values into the chart's README, from the `# --` comments of values.yaml.

Run it after a change of values.yaml; a test compares the two.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts/language-finetune"
MARK = "<!-- Written by `python tests/unit_chart/values_table.py` from values.yaml -->\n"
COMMENT = re.compile(r"^ *# (?:-- )?(?P<text>.*)$")
KEY = re.compile(r"^(?P<indent> *)(?P<name>[A-Za-z]+):")


def build_table(values: str) -> str:
    """Return the table, in Markdown."""
    rows = [
        f"| `{path}` | `{as_json(default)}` | {text} |"
        for path, default, text in documented(values)
    ]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows]) + "\n"


def documented(values: str) -> Iterator[tuple[str, Any, str]]:
    """Yield path, default and meaning of each value that has a `# --` comment."""
    parsed = yaml.safe_load(values)
    path: list[str] = []
    words: list[str] = []
    for line in values.splitlines():
        if found := COMMENT.match(line):
            words = [found["text"]] if "# -- " in line else [*words, found["text"]]
        elif found := KEY.match(line):
            path = [*path[: len(found["indent"]) // 2], found["name"]]
            if words:
                yield ".".join(path), at(parsed, path), " ".join(words)
            words = []


def at(values: Any, path: list[str]) -> Any:
    """Return the value at a path."""
    for name in path:
        values = values[name]
    return values


def as_json(value: Any) -> str:
    """Return a value as it is written in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0]


def readme(text: str, *, values: str) -> str:
    """Return the README with the table of `values` after its mark."""
    return text.partition(MARK)[0] + MARK + "\n" + build_table(values)


if __name__ == "__main__":
    page = CHART / "README.md"
    page.write_text(readme(page.read_text(), values=(CHART / "values.yaml").read_text()))
