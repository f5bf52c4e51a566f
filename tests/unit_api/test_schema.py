"""How a pydantic model becomes a structural schema."""

from enum import StrEnum

import pytest
from pydantic import BaseModel, ConfigDict, Field

from finetune_api.schema import build_schema


class Colour(StrEnum):
    """A colour."""

    RED = "Red"


class Paint(BaseModel):
    """What to paint."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    colour: Colour | None = None
    """Colour of the wall."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the wall."""
    coats: int = Field(default=2, ge=1)
    """Coats of paint."""
    labels: dict[str, str] = Field(default_factory=dict, max_length=4)
    """Labels."""
    walls: list[str] = Field(max_length=4)
    """Walls."""


class Mixed(BaseModel):
    """A union."""

    value: int | str


PROPERTIES = build_schema(Paint, mode="validation")["properties"]


def test_an_optional_enum_is_an_enum_with_the_words_of_the_field() -> None:
    assert PROPERTIES["colour"] == {
        "description": "Colour of the wall.",
        "type": "string",
        "enum": ["Red"],
    }


def test_exclusive_bounds_are_flags() -> None:
    assert PROPERTIES["share"] == {
        "description": "Share of the wall.",
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": True,
    }


def test_a_default_is_told_and_not_set() -> None:
    assert PROPERTIES["coats"] == {
        "description": "Coats of paint. Default: 2.",
        "type": "integer",
        "format": "int64",
        "minimum": 1,
    }


def test_a_mapping_describes_its_values() -> None:
    assert PROPERTIES["labels"] == {
        "description": "Labels.",
        "type": "object",
        "maxProperties": 4,
        "additionalProperties": {"type": "string"},
    }


def test_a_list_is_replaced_whole() -> None:
    assert PROPERTIES["walls"]["x-kubernetes-list-type"] == "atomic"


def test_unknown_fields_are_left_to_the_api_server() -> None:
    assert "additionalProperties" not in build_schema(Paint, mode="validation")


def test_a_union_of_types_is_refused() -> None:
    with pytest.raises(ValueError, match="a union of 2 types is no structural schema"):
        build_schema(Mixed, mode="validation")
