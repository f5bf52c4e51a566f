"""The border to `finetune_text`: what it finds unusable ends a run as invalid data (65)."""

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_text.errors import TextInvalid
from finetune_trainer.errors import DataInvalid


@contextmanager
def told_as_invalid_data() -> Iterator[None]:
    """Turn the text's own errors into the trainer's.

    Raises:
        DataInvalid: The text or the tokenizer cannot be used.
    """
    try:
        yield
    except TextInvalid as fault:
        raise DataInvalid(fault.message, reason=fault.reason) from fault
