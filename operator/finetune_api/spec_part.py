"""What every part of the resource is made of: its base and the shared text types.

`resource` and `parameters` build on it; it knows no field.
"""

from typing import Annotated, Any, get_args

from pydantic import Field, ValidationInfo, field_validator

from finetune_api.strict import Strict

Uri = Annotated[str, Field(min_length=1, max_length=1024)]
Quantity = Annotated[
    str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", max_length=32)
]
"""A Kubernetes quantity, written as text: `80Gi`, `500m`, `4`."""
DnsName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)
]
StringMap = Annotated[dict[str, Annotated[str, Field(max_length=256)]], Field(max_length=32)]


_JSON_TYPES: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int, float), float: (int, float)}
"""What may stand in JSON for a field of a type; pydantic alone would take much more."""


class Part(Strict):
    """Base of every part of the resource: strict, and with the types of JSON as the API server reads them."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_another_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Take "8" for no number and "true" for no boolean, as the API server does."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        wanted = _JSON_TYPES.keys() & {annotation, *get_args(annotation)}
        allowed = [kind for one in wanted for kind in _JSON_TYPES[one]]
        if not wanted or value is None or type(value) in allowed:
            return value
        names = " or ".join("a boolean" if kind is bool else "a number" for kind in wanted)
        raise ValueError(f"must be {names}, and is {value!r}; write it without quotes")
