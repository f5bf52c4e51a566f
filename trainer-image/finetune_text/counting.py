"""Counts in sentences: one form for one, another for many. Pure; below everything else."""

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def count_of(count: int, noun: str, *, plural: str = "") -> str:
    """Return a count with its noun: "1 row", "1,200 rows"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def is_or_are(count: int) -> str:
    """Return the form of "to be" that a count takes."""
    return "is" if count == 1 else "are"


def has_or_have(count: int) -> str:
    """Return the form of "to have" that a count takes."""
    return "has" if count == 1 else "have"


def verb_of(count: int, verb: str) -> str:
    """Return a regular verb as a count takes it: "1 row repeats", "2 rows repeat"."""
    return f"{verb}s" if count == 1 else verb


def describe_bytes(size: int) -> str:
    """Return a size in bytes for a person, in a unit of 1024."""
    if size < 1024:
        return count_of(size, "byte")
    amount, unit = float(size), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}"
