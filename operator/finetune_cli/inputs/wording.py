"""Pydantic's complaints in our words: which field, what is wrong with which value, what to do.

A table of complaint type to wording; `checking` decides what to check. Pure.
"""

import json
from collections.abc import Callable
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic_core import ErrorDetails

from finetune_cli.inputs.field_names import fields_of, meant_word, model_at, remedy_for

LONGEST_VALUE = 60
"""Characters of a value shown in a message."""
SHOWING = json.JSONEncoder(ensure_ascii=False, default=str)

FORMS: dict[str, str] = {
    "tag": "letters, digits and hyphens as in BCP 47, such as sw, zh-Hans or pa-Arab",
    "gpuMemory": "a quantity such as 80Gi",
    "cpu": 'a quantity such as "4" or 500m',
    "memory": "a quantity such as 32Gi",
    "ephemeral-storage": "a quantity such as 50Gi",
    "repo": "org/name",
    "everyDuration": "a duration such as 30m or 1h30m",
    "sha256": "64 digits 0-9 and a-f",
}
"""Field to the form it has, in words; names of objects share one."""
REMEDIES: dict[str, str] = {"maxSteps": "; leave it out to train by epochs"}
"""What to do beside staying within the bound: the guide's -1 means unset."""
NAME_FORM = "a Kubernetes name: small letters, digits, hyphens and dots"

Wording = Callable[[ErrorDetails], str]


def word_problem(error: ErrorDetails) -> str:
    """Return one sentence about one complaint: path, value, what is allowed, what to do."""
    wording = WORDINGS.get(error["type"], _other)
    return sentence(f"{path_text(error['loc'])} {wording(error)}")


def sentence(text: str) -> str:
    """Return a text with the dot that ends it, unless a question does."""
    return text if text.endswith("?") else f"{text}."


def path_text(steps: tuple[str | int, ...]) -> str:
    """Return a path below spec as people write it: spec.languages[0].tag."""
    text = "spec"
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text


def show(value: Any) -> str:
    """Return a value as JSON, cut where it is long."""
    text = ""
    try:
        # Step by step: a few aliases of aliases would unfold to more than fits in memory.
        for part in SHOWING.iterencode(value):
            text += part
            if len(text) > LONGEST_VALUE:
                return text[: LONGEST_VALUE - 1] + "…"
    except (TypeError, ValueError):
        return f"a {type(value).__name__} that JSON cannot hold"
    return text


def _unknown(error: ErrorDetails) -> str:
    *parents, name = error["loc"]
    model = model_at(tuple(parents))
    siblings = list(fields_of(model)) if model else []
    remedy = remedy_for(str(name), siblings=siblings, path=path_text(error["loc"]))
    return f"is not a field; {remedy}"


def _missing(error: ErrorDetails) -> str:
    *parents, name = error["loc"]
    model = model_at(tuple(parents))
    purpose = ""
    for field, info in (model.model_fields if model else {}).items():
        if name in (info.alias, field) and info.description:
            purpose = " ".join(info.description.split()).split(": ")[0].rstrip(".")
    return f"is missing; add it{f' ({purpose})' if purpose else ''}"


def _text(error: ErrorDetails) -> str:
    value, name = error["input"], str(error["loc"][-1])
    if isinstance(value, bool):
        return _boolean_word(value=value, name=name)
    if isinstance(value, int | float):
        return f'is {show(value)}, a number, expected text; quote it: "{value}"'
    return f"is {show(value)}, expected text; write one word or sentence"


def _boolean_word(*, value: bool, name: str) -> str:
    reported = "YAML reads yes, no, on and off without quotes as true and false"
    if name == "tag" and value is False:
        return f'is false: {reported}; quote it ("no"), or write nb or nn'
    return f"is {show(value)}: {reported}; quote it"


def _choice(error: ErrorDetails) -> str:
    value = error["input"]
    allowed = allowed_words(error["loc"])
    expected = (
        _either(allowed) if allowed else error.get("ctx", {}).get("expected", "another value")
    )
    if value is False and "Never" in allowed:
        meant: str | None = "Never"
    elif isinstance(value, str):
        meant = meant_word(value, allowed=allowed)
    else:
        meant = None
    remedy = f"did you mean {meant}?" if meant else "write one of these"
    return f"is {show(value)}, expected {expected}; {remedy}"


def allowed_words(path: tuple[str | int, ...]) -> list[str]:
    """Return the words that the enum or literal at `path` allows."""
    names = [step for step in path if isinstance(step, str)]
    model = model_at(tuple(names[:-1]))
    return _words(fields_of(model).get(names[-1])) if model and names else []


def _words(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(member.value) for member in annotation]
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    if get_origin(annotation) in (Union, UnionType, list):
        return [word for argument in get_args(annotation) for word in _words(argument)]
    return []


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _number(error: ErrorDetails) -> str:
    value, whole = error["input"], error["type"].startswith("int")
    kind = "a whole number" if whole else "a number"
    if isinstance(value, str) and _is_number(value):
        return f"is {show(value)}, a text, expected {kind}; write it without quotes"
    return f"is {show(value)}, expected {kind}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _truth(error: ErrorDetails) -> str:
    return f"is {show(error['input'])}, expected true or false without quotes"


def _bound(word: str, key: str) -> Wording:
    def bound(error: ErrorDetails) -> str:
        remedy = REMEDIES.get(str(error["loc"][-1]), "")
        return f"is {show(error['input'])}, expected {word} {error['ctx'][key]:.15g}{remedy}"

    return bound


def _pattern(error: ErrorDetails) -> str:
    name = str(error["loc"][-1])
    form = FORMS.get(name, NAME_FORM if name.lower().endswith("name") else "")
    return f"is {show(error['input'])}, expected {form or 'the form ' + error['ctx']['pattern']}"


def _length(error: ErrorDetails) -> str:
    limits = error.get("ctx", {})
    unit = "characters" if error["type"].startswith("string") else "items"
    bound = (
        f"at least {limits['min_length']}"
        if "min_length" in limits
        else f"at most {limits['max_length']}"
    )
    value = (
        f"is {show(error['input'])}" if unit == "characters" else f"has {len(error['input'])} items"
    )
    return f"{value}, expected {bound} {unit}"


def _mapping(error: ErrorDetails) -> str:
    model = model_at(error["loc"])
    inside = f" with {', '.join(fields_of(model))}" if model else ""
    return f"is {show(error['input'])}, expected fields below it{inside}"


def _list(error: ErrorDetails) -> str:
    return (
        f"is {show(error['input'])}, expected a list; write each item on a line that begins with -"
    )


def _own_words(error: ErrorDetails) -> str:
    """Return the words of a check of the models' own; those for quoted values are said better here."""
    if "must be a number" in error["msg"]:
        return _number(error)
    if "must be a boolean" in error["msg"]:
        return _truth(error)
    return error["msg"].removeprefix("Value error, ").rstrip(".")


def _other(error: ErrorDetails) -> str:
    return f"is {show(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"


WORDINGS: dict[str, Wording] = {
    "extra_forbidden": _unknown,
    "missing": _missing,
    "string_type": _text,
    "enum": _choice,
    "literal_error": _choice,
    "int_type": _number,
    "int_parsing": _number,
    "int_from_float": _number,
    "float_type": _number,
    "bool_type": _truth,
    "greater_than": _bound("more than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "string_pattern_mismatch": _pattern,
    "string_too_short": _length,
    "string_too_long": _length,
    "too_short": _length,
    "too_long": _length,
    "model_type": _mapping,
    "dict_type": _mapping,
    "list_type": _list,
    "value_error": _own_words,
}
"""Pydantic's type of complaint to our wording."""
