"""What the CLI refuses; all of it is the user's to act on.

    CliError
    ├── ManifestError   the file cannot be read, or holds no LanguageFinetune
    └── InvalidError    a LanguageFinetune breaks the schema or a rule

`app` prints the lines of either to stderr and exits with `USAGE`.
"""

FAILED = 1
"""Exit code where the result cannot be written."""
USAGE = 2
"""Exit code of invalid input, as for a wrong option."""


class CliError(Exception):
    """The command cannot be done; `lines` says why, one problem a line."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))


class ManifestError(CliError):
    """The file cannot be read or holds nothing to look at."""

    def __init__(self, line: str) -> None:
        super().__init__([line])


class InvalidError(CliError):
    """A LanguageFinetune breaks the schema or a rule."""
