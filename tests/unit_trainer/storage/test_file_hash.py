"""The hash of a file is that of its bytes, in however many pieces it is read."""

import hashlib
from pathlib import Path

import pytest

from finetune_trainer.storage.s3_transfer import HASHED_AT_ONCE, hash_file, measure_file


@pytest.mark.parametrize("size", [0, 1, HASHED_AT_ONCE, HASHED_AT_ONCE + 1])
def test_a_file_is_hashed_whole(size: int, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"\x07" * size)
    assert hash_file(path) == hashlib.sha256(b"\x07" * size).hexdigest()
    assert hash_file(path) == measure_file(path).sha256
