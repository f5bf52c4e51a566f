"""What Unsloth prints while it is imported, less what is not true here.

Used by `model` around that import.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

MISTAKEN = "Your Flash Attention 2 installation seems to be broken"
"""Unsloth takes the folder of FlashAttention 4 for version 2, which is not installed: nothing is broken."""


@contextmanager
def without_mistakes() -> Iterator[None]:
    """Hold back what the block prints until it is over, and drop the lines that are mistaken."""
    said = StringIO()
    try:
        with redirect_stdout(said):
            yield
    finally:
        sys.stdout.writelines(
            line for line in said.getvalue().splitlines(keepends=True) if MISTAKEN not in line
        )
