"""A run that ends well has not helped by that alone: the sentence says which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.held_out_gain import FEW_EXAMPLES, NOTICEABLE, describe_gain, is_gain_clear

BITS = st.floats(min_value=0.01, max_value=20)


@pytest.mark.parametrize(
    ("base", "adapter", "examples", "start", "is_clear"),
    [
        (3.0372, 3.0296, 15, "The adapter changed next to nothing: 0.3% fewer bits", False),
        (3.0372, 3.0296, 500, "The adapter changed next to nothing: 0.3% fewer bits", False),
        (3.0372, 2.7274, 15, "The adapter learned: it needs 10% fewer bits", False),
        (3.0372, 2.7274, 500, "The adapter learned: it needs 10% fewer bits", True),
        (3.0, 3.3, 500, "The adapter is worse than the base model", False),
        (0.0, 0.0, 500, "The adapter changed next to nothing", False),
    ],
)
def test_the_sentence_says_whether_it_helped(
    base: float, adapter: float, examples: int, start: str, *, is_clear: bool
) -> None:
    said = describe_gain(base=base, adapter=adapter, examples=examples)
    assert said.startswith(start)
    assert ("would help" in said or "rough one" in said) is not is_clear
    assert is_gain_clear(base=base, adapter=adapter, examples=examples) is is_clear


@given(base=BITS, adapter=BITS, examples=st.integers(0, 10_000))
def test_whatever_is_not_clear_says_so(base: float, adapter: float, examples: int) -> None:
    said = describe_gain(base=base, adapter=adapter, examples=examples)
    clear = is_gain_clear(base=base, adapter=adapter, examples=examples)
    assert clear is (examples >= FEW_EXAMPLES and (base - adapter) / base >= NOTICEABLE)
    assert ("would help" in said or "rough one" in said) is not clear
