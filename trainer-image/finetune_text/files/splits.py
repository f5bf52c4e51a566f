"""Splits: which part of a dataset a file belongs to, by its name.

The names are those that the Hugging Face Hub reads (train, validation, valid, val, dev, test, eval ...)
and common variants. Pure.
"""

import re
from pathlib import PurePosixPath

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_WORDS = {
    TRAIN: ("train", "training", "trainset", "traindata", "trainingdata"),
    VALIDATION: (
        "validation",
        "valid",
        "val",
        "dev",
        "devset",
        "valset",
        "validationset",
        "heldout",
        "holdout",
    ),
    TEST: ("test", "testing", "eval", "evaluation", "testset", "testdata", "evalset", "devtest"),
}
"""A split and the words by which file names state it."""
_HELD_OUT = re.compile(r"held[-_ ]out|hold[-_ ]out")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_of(name: str) -> str:
    """Return the split that a file's name or its nearest folder states; empty if none does.

    The last component that names a split decides: `test/train-0.jsonl` is training data. A component
    that names training and another split, such as `train_test.jsonl`, is training data.
    """
    for component in reversed(PurePosixPath(name).parts):
        found = _splits_in(component)
        if found:
            return TRAIN if TRAIN in found else TEST if TEST in found else VALIDATION
    return ""


def _splits_in(component: str) -> set[str]:
    lowered = _CAMEL_CASE.sub(" ", component).lower()
    words = set(re.split(r"[^a-z]+", _HELD_OUT.sub("heldout", lowered)))
    return {split for split, spoken in SPLIT_WORDS.items() if words & set(spoken)}
