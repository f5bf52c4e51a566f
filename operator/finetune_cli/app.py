"""The commands of `kubectl finetune`. Each reads a file, asks the pure packages, and shows the result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from finetune_api import wire
from finetune_cli import language_rendering, rendering
from finetune_cli.checking import explain_manifest, resolve_manifest
from finetune_cli.errors import FAILED, USAGE, CliError, InvalidError
from finetune_cli.languages import find_languages, list_languages
from finetune_cli.manifests import Manifest, load_manifests
from finetune_cli.tables import as_json, as_yaml
from finetune_resolver import Resolution

app = typer.Typer(
    name="kubectl-finetune",
    help="Explain and check LanguageFinetune resources without a cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


class Output(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    MARKDOWN = "markdown"


RENDERERS = {
    Output.JSON: rendering.render_json,
    Output.YAML: rendering.render_yaml,
    Output.MARKDOWN: rendering.render_markdown,
}
"""Forms that are one text, whatever the terminal."""

OutputForm = Annotated[Output, typer.Option("-o", "--output", help="Form of the result.")]
File = Annotated[
    str,
    typer.Option("-f", "--filename", metavar="FILE", help="File with the resource; - reads stdin."),
]


@app.callback()
def finetune() -> None:
    """Explain and check LanguageFinetune resources without a cluster."""


@app.command()
def explain(
    filename: File,
    output: OutputForm = Output.TABLE,
) -> None:
    """Show every parameter that a resource resolves to, and why."""
    with _problems_on_stderr():
        resolutions = _resolve_file(filename, explain_manifest)
        if output is Output.TABLE:
            rendering.render_table(resolutions, console=Console(highlight=False))
            return
        typer.echo(RENDERERS[output](resolutions))


@app.command()
def languages(
    language: Annotated[
        str, typer.Argument(metavar="[TAG]", help="Tag or name; leave it out to list all.")
    ] = "",
    output: OutputForm = Output.TABLE,
) -> None:
    """List the languages of the catalogue, or tell all that is known of one."""
    with _problems_on_stderr():
        views = find_languages(language) if language else list_languages()
        if output is Output.TABLE:
            language_rendering.render_languages(views, console=Console(highlight=False))
        elif output is Output.MARKDOWN:
            typer.echo(language_rendering.render_languages_markdown(views))
        else:
            document = language_rendering.build_languages_document(views)
            typer.echo(as_json(document) if output is Output.JSON else as_yaml(document))


@app.command()
def validate(filename: File) -> None:
    """Check a resource as the API server would, and its language tags."""
    with _problems_on_stderr():
        for name, resolution in _resolve_file(filename, resolve_manifest).items():
            count = len(resolution.warnings)
            told = f"; {count} warning{'s' if count > 1 else ''}, see explain" if count else ""
            typer.echo(f"{wire.KIND} {name} is valid{told}")


def _resolve_file(
    filename: str, resolve: Callable[[Manifest], Resolution]
) -> dict[str, Resolution]:
    """Return the resolution of every LanguageFinetune of a file, by name; all problems at once."""
    resolutions: dict[str, Resolution] = {}
    problems: list[str] = []
    for manifest in load_manifests(filename):
        if manifest.name in resolutions:
            problems.append(
                f"{manifest.source}: {wire.KIND} {manifest.name}: stands twice; give each a name of "
                "its own."
            )
            continue
        try:
            resolutions[manifest.name] = resolve(manifest)
        except InvalidError as error:
            problems += error.lines
    if problems:
        raise InvalidError(problems)
    return resolutions


@contextmanager
def _problems_on_stderr() -> Iterator[None]:
    try:
        yield
    except CliError as error:
        for line in error.lines:
            typer.echo(line, err=True)
        raise typer.Exit(USAGE) from error
    except BrokenPipeError:
        raise  # whoever read has enough; click ends quietly
    except OSError as error:
        typer.echo(f"The result cannot be written: {error.strerror}.", err=True)
        raise typer.Exit(FAILED) from error
