"""Public functions say what their arguments are: the resolver's, and the surface of the fused stack."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUSED = "trainer-image/finetune_trainer/fused"
ROOMS = {
    "operator/finetune_resolver": "**/*.py",
    FUSED: "*.py",
}
IMPLEMENTATIONS = {
    # The arguments stand at the Protocol that they implement.
    f"{FUSED}/flash4.py": {"FlashAttention4"},
    f"{FUSED}/attention.py": {"FlashAttention", "AutogradAttention", "PlainAttention"},
    f"{FUSED}/reference_ops.py": {"Reference"},
}
AUTOGRAD = {"forward", "backward"}
"""Of torch.autograd.Function: torch's own signature."""


@pytest.mark.parametrize("room", ROOMS)
def test_a_public_function_of_several_arguments_names_each_in_its_docstring(room: str) -> None:
    silent = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": missing
        for path in sorted((ROOT / room).glob(ROOMS[room]))
        for function in _public_functions(path)
        if (missing := _find_missing(function))
    }
    assert silent == {}


def _public_functions(path: Path) -> Iterator[ast.FunctionDef]:
    implementations = IMPLEMENTATIONS.get(str(path.relative_to(ROOT)), set())
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            yield node
        if isinstance(node, ast.ClassDef) and node.name not in implementations:
            yield from (
                each
                for each in node.body
                if isinstance(each, ast.FunctionDef) and not _is_autograd(node, each)
            )


def _is_autograd(owner: ast.ClassDef, function: ast.FunctionDef) -> bool:
    bases = {ast.unparse(base) for base in owner.bases}
    return function.name in AUTOGRAD and any(base.endswith("autograd.Function") for base in bases)


def _find_missing(function: ast.FunctionDef) -> list[str]:
    """Return the arguments that the docstring does not name; a single one needs no section."""
    every = (*function.args.args, *function.args.kwonlyargs)
    names = [each.arg for each in every if each.arg not in ("self", "cls")]
    names = [name for name in names if not name.startswith("_")]
    if function.name.startswith("_") or len(names) < 2:
        return []
    section = (ast.get_docstring(function) or "").partition("Args:\n")[2]
    return [name for name in names if f"{name}:" not in section]
