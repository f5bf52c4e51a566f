"""What everything that crosses a process border is made of: the strict base model.

`part` (the resource), `plan`, `profile` and `outcome` build on it, so that each means the same by a
wrong field: an error, never a guess. `status`, `progress` and `checkpoint` do not: they are read by
software of another version, which passes over what it does not know.
"""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Strict(BaseModel):
    """camelCase outside, frozen inside; unknown fields and numbers that are none are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class Lenient(BaseModel):
    """The same for whole objects of the API server, which knows fields of them that we do not."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )
