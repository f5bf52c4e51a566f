"""Names of the objects that the operator creates: the same resource always gets the same names.

A LanguageFinetune may have 253 characters and dots; names of Jobs reach pod names, host names and
labels, which take 63 and no dots. What has to be cut or replaced carries a hash of the full name, so
that two resources whose names differ only at the end never meet.
"""

import hashlib

NAME_LIMIT = 63
"""Characters of a DNS label and of a label's value."""
HASH_DIGITS = 10
"""40 bits: among 10,000 names of one namespace two meet once in 20,000 clusters."""


def job_name(*, name: str, run: int, role: str, attempt: int) -> str:
    """Return the name of the Job of one attempt: a DNS label."""
    return _with_suffix(name, f"-{run}-{role}-{attempt}")


def plan_name(*, name: str, run: int, content_sha256: str) -> str:
    """Return the name of the ConfigMap that holds a plan: a DNS label.

    The content is part of the name: where the operator died between ConfigMap and Job and came back
    with other rules, the Job must not meet the plan of before.
    """
    return _with_suffix(name, f"-{run}-plan-{content_sha256[:8]}")


def label_value(name: str) -> str:
    """Return `name` as the value of a label, cut with a hash where it is longer than 63 characters."""
    if len(name) <= NAME_LIMIT:
        return name
    return f"{name[: NAME_LIMIT - HASH_DIGITS - 1].rstrip('-.')}-{_digest(name)}"


def _with_suffix(name: str, suffix: str) -> str:
    legal = name.replace(".", "-")
    if legal == name and len(name) + len(suffix) <= NAME_LIMIT:
        return name + suffix
    room = NAME_LIMIT - len(suffix) - HASH_DIGITS - 1
    return f"{legal[:room].rstrip('-')}-{_digest(name)}{suffix}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:HASH_DIGITS]
