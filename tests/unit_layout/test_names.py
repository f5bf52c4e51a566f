"""Names: a class of the product has a name of its own, so that a search for it ends at one place."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("operator", "trainer-image")


def test_every_class_name_is_used_once() -> None:
    places = defaultdict(list)
    for path in (each for top in PRODUCT for each in (ROOT / top).rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
