"""What every command shares: the forms of a result, and problems on stderr with their exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import typer

from finetune_cli.errors import FAILED, USAGE, CliError


class PrintFormat(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    MARKDOWN = "markdown"


@contextmanager
def problems_on_stderr() -> Iterator[None]:
    """Print what a command raises, one problem a line, and end with its exit code."""
    try:
        yield
    except CliError as error:
        for line in error.lines:
            typer.echo(line, err=True)
        raise typer.Exit(USAGE) from error
    except BrokenPipeError:
        raise  # the reader has enough; click ends quietly
    except OSError as error:
        typer.echo(f"The result cannot be written: {error.strerror}.", err=True)
        raise typer.Exit(FAILED) from error
