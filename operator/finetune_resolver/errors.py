"""What the resolver refuses.

    ResolverError
    ├── UnknownLanguageError   the tag is no language; the user corrects it
    ├── UnsupportedSpecError   the resource asks for what does not exist yet; the user changes it
    ├── UnsupportedModelError  the base model is built otherwise; the user picks another
    └── InsufficientGpuMemoryError   no micro-batch fits the GPU; the user takes what its message names

All of them are the user's to act on, and a retry never helps: the resolver is pure.
"""


class ResolverError(Exception):
    """The resource cannot be resolved."""


class UnknownLanguageError(ResolverError):
    """A tag is not a language by BCP 47 and its registry."""

    def __init__(self, tag: str, *, suggestions: tuple[str, ...]) -> None:
        self.tag = tag
        self.suggestions = suggestions
        hint = f"; did you mean {' or '.join(suggestions)}?" if suggestions else "."
        super().__init__(
            f'Language tag "{tag}" is not a language, expected a BCP 47 tag such as sw, zh-Hans or '
            f"pa-Arab{hint} Correct the tag, or write und and declare the traits."
        )


class UnsupportedSpecError(ResolverError):
    """A field asks for behaviour that does not exist yet."""


class UnsupportedModelError(ResolverError):
    """The shape of the base model cannot be read from its config.json."""


class InsufficientGpuMemoryError(ResolverError):
    """Not even one sequence of the full length fits the GPU; the message has the numbers."""

    def __init__(self, message: str, *, nearest: tuple[str, ...]) -> None:
        self.nearest = nearest
        """What would fit, the nearest first."""
        super().__init__(message)
