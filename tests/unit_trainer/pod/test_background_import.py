"""What is imported beside the downloads is there after them, whatever became of either."""

import sys
from pathlib import Path

import pytest

from finetune_trainer.pod.background_import import import_in_background


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "slowly_imported.py").write_text("import time\ntime.sleep(0.2)\nDONE = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slowly_imported", raising=False)
    return "slowly_imported"


def test_the_module_is_there_when_the_block_is_over(module: str) -> None:
    with import_in_background(module):
        pass
    assert sys.modules[module].DONE


def test_a_block_that_fails_is_told_and_the_import_is_over(module: str) -> None:
    with pytest.raises(LookupError, match="no such bucket"), import_in_background(module):
        raise LookupError("no such bucket")
    assert sys.modules[module].DONE


def test_a_module_that_cannot_be_imported_is_told_after_the_block() -> None:
    done = []
    with (
        pytest.raises(ModuleNotFoundError, match="No module named 'nobody_wrote_this'"),
        import_in_background("nobody_wrote_this"),
    ):
        done.append(True)
    assert done == [True]
