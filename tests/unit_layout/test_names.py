"""Names and words: a class name is used once, and the prose is plain technical English."""

import ast
import re
import subprocess
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


WORDS = "anew|farewell|foretell|foretells|foretold|goodbye|nobody|told|whoever|whosoever"
"""Words that the documentation of Kubernetes or PyTorch does not use for what this product does."""
ALLOWED = {
    # A text in English that a tokenizer is compared on.
    "trainer-image/finetune_text/tokenization/tokenizer_facts.py": {"nobody"},
    # The name of a field in checkpoints of version 0.1.0.
    "trainer-image/finetune_trainer/checkpoints/files.py": {"told"},
    "tests/unit_trainer/checkpoints/test_older_checkpoint.py": {"told"},
    # The list itself.
    "tests/unit_layout/test_names.py": set(WORDS.split("|")),
}
TEXT = (".md", ".py", ".txt", ".yaml")
HISTORY = ("CHANGELOG.md", "docs/performance/", "tests/cases/corpora/", "tests/cases/older/")
"""What was measured or released once, and texts of others."""


def test_plain_words() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = {}
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not name.endswith(TEXT) or name.startswith(HISTORY) or not path.is_file():
            continue
        words = set(re.findall(rf"(?i)\b(?:{WORDS})\b", path.read_text("utf-8")))
        if words := {word.lower() for word in words} - ALLOWED.get(name, set()):
            found[name] = words
    assert found == {}
