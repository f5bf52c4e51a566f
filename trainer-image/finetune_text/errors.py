"""What makes a text unusable: the user changes it.

    TextError
    └── TextInvalid  a file or row cannot be learned from as it is

A message is one sentence: the object, what is wrong with which value, what is allowed, what to do.
"""


class TextError(Exception):
    """Root of what this package raises."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        """CamelCase, stable."""


class TextInvalid(TextError):
    """The user's text or tokenizer cannot be used as it is."""
