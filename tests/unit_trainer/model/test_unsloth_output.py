"""A sentence of Unsloth's about FlashAttention 2 is not true where version 4 is installed."""

import pytest

from finetune_trainer.model.unsloth_output import without_mistakes

BROKEN = (
    "Unsloth: Your Flash Attention 2 installation seems to be broken. Using Xformers instead. No"
    " performance changes will be seen."
)


def test_the_mistaken_sentence_is_dropped_and_the_others_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with without_mistakes():
        print("Unsloth: Will patch your computer.")
        print(BROKEN)
        print("Unsloth: no GPU found.")
    assert capsys.readouterr().out == (
        "Unsloth: Will patch your computer.\nUnsloth: no GPU found.\n"
    )


def test_what_was_said_before_an_import_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        print("Unsloth: looking for a library.")
        raise ImportError("no such library")

    with pytest.raises(ImportError, match="no such library"), without_mistakes():
        fail()
    assert capsys.readouterr().out == "Unsloth: looking for a library.\n"
