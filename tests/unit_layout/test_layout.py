"""Guards of the project's shape that no linter knows."""

import operator
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_operator_is_a_folder_and_never_a_package() -> None:
    # An __init__.py there would shadow the standard library's `operator`.
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "trainer-image" / "__init__.py").exists()


def test_python_started_in_the_root_finds_the_standard_operator() -> None:
    code = "import operator, sys; sys.exit(operator.add(1, 1) != 2)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert operator.add(1, 1) == 2


def test_no_test_folder_is_called_operator() -> None:
    folders = [path for path in (ROOT / "tests").rglob("operator") if path.is_dir()]
    assert [path for path in folders if path.parent.name != "cases"] == []


def test_every_package_says_that_it_is_typed() -> None:
    packages = [*ROOT.glob("operator/finetune_*"), *ROOT.glob("trainer-image/finetune_*")]
    assert len(packages) == 6
    assert all((package / "py.typed").is_file() for package in packages)
