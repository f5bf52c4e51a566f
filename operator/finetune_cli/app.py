"""The commands of `kubectl finetune`. Each reads files, asks the pure packages, and shows the result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from finetune_api import wire
from finetune_cli.cluster.commands import register
from finetune_cli.command_output import PrintFormat, problems_on_stderr
from finetune_cli.errors import CliError, InvalidError
from finetune_cli.inputs.checking import explain_manifest, resolve_manifest
from finetune_cli.inputs.manifests import ResourceFile, load_manifests
from finetune_cli.inputs.model_files import find_model
from finetune_cli.languages import find_languages, list_languages
from finetune_cli.local_run.command import RunOptions, run_on_this_machine
from finetune_cli.local_run.run_screen import RunScreen
from finetune_cli.preview import Inputs, compare_models, find_refusals, preview
from finetune_cli.screens import compare_rendering, language_rendering, plan_rendering, rendering
from finetune_cli.screens.tables import as_json, as_yaml

T = TypeVar("T")

app = typer.Typer(
    name="kubectl-finetune",
    help="Explain, check, plan and run LanguageFinetune resources, and follow those of a cluster.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
)


OutputForm = Annotated[PrintFormat, typer.Option("-o", "--output", help="Form of the result.")]
File = Annotated[
    str,
    typer.Option("-f", "--filename", metavar="FILE", help="File with the resource; - reads stdin."),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="[TAG=]PATH",
        help="Text to measure: a file or a folder; once for each language.",
    ),
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option("--validation", metavar="[TAG=]PATH", help="Held-out text of its own."),
]
GpuMemory = Annotated[
    str,
    typer.Option(
        "--gpu-memory", metavar="QUANTITY", help="Of one GPU, such as 80Gi, instead of the file's."
    ),
]
Speed = Annotated[
    float | None,
    typer.Option(
        "--tokens-per-second", min=0.001, help="Speed of an earlier run; gives the training time."
    ),
]


def _show_version(asked: bool) -> None:  # noqa: FBT001
    if asked:
        typer.echo(f"kubectl finetune {version('language-finetune')}")
        raise typer.Exit


@app.callback()
def finetune(
    *,
    version_asked: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Explain, check, plan and run LanguageFinetune resources, and follow those of a cluster."""
    del version_asked  # its callback has ended the command


@app.command()
def explain(filename: File, output: OutputForm = PrintFormat.TABLE) -> None:
    """Show every parameter that a resource resolves to, and why."""
    with problems_on_stderr():
        resolutions = _of_each(filename, explain_manifest)
        if output is PrintFormat.TABLE:
            rendering.render_table(resolutions, console=_console())
            return
        _show(
            output,
            lambda: rendering.build_documents(resolutions),
            markdown=lambda: rendering.render_markdown(resolutions),
        )


@app.command()
def plan(
    *,
    filename: File,
    data: Data = None,
    tokenizer: Annotated[
        str,
        typer.Option("--tokenizer", metavar="PATH", help="Folder of the base model's tokenizer."),
    ] = "",
    model_config: Annotated[
        str,
        typer.Option(
            "--model-config", metavar="PATH", help="The base model's config.json, for its memory."
        ),
    ] = "",
    validation: HeldOut = None,
    gpu_memory: GpuMemory = "",
    tokens_per_second: Speed = None,
    output: OutputForm = PrintFormat.TABLE,
) -> None:
    """Show what a run would be: text, steps, memory, time and every parameter, without a cluster."""
    with problems_on_stderr():
        inputs = Inputs(
            data=data or (),
            validation=validation or (),
            gpu_memory=gpu_memory,
            tokens_per_second=tokens_per_second,
        )
        if data:
            _only(filename, option="--data")
        model = find_model(tokenizer, config=model_config)
        with _working("Measuring the text" if data else ""):
            plans = _of_each(
                filename, lambda manifest: preview(manifest, model=model, inputs=inputs)
            )
        if output is PrintFormat.TABLE:
            plan_rendering.render_plan(plans, console=_console())
        else:
            _show(
                output,
                lambda: plan_rendering.build_plans_document(plans),
                markdown=lambda: plan_rendering.render_plan_markdown(plans),
            )
        refusals = [line for one in plans.values() for line in find_refusals(one)]
        if refusals:
            raise CliError(refusals)


@app.command()
def run(
    *,
    filename: File,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[TAG=]PATH",
            help="Local text instead of dataset.uri: a file or a folder; once for each language.",
        ),
    ] = None,
    validation: HeldOut = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="FOLDER",
            help="Folder with a copy of the base model; nothing is downloaded.",
        ),
    ] = "",
    output_dir: Annotated[
        str,
        typer.Option(
            "--output-dir", metavar="FOLDER", help="Folder of the adapter instead of output.uri."
        ),
    ] = "",
    output: OutputForm = PrintFormat.TABLE,
) -> None:
    """Train on this machine, without a cluster: measure, resolve, train, evaluate, publish."""
    with problems_on_stderr():
        # JSON and YAML are for programs: what people read goes to the other stream.
        console = (
            _console() if output is PrintFormat.TABLE else Console(highlight=False, stderr=True)
        )
        options = RunOptions(
            data=data or (), validation=validation or (), model=model, output_dir=output_dir
        )
        result = run_on_this_machine(
            _only(filename, option="run"), options=options, screen=RunScreen(console)
        )
        if output is not PrintFormat.TABLE:
            _show(output, lambda: dict(result.body), markdown=lambda: as_yaml(dict(result.body)))
        raise typer.Exit(int(result.end))


@app.command()
def compare(
    *,
    filename: File,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            metavar="PATH",
            help="Folder of a base model: its tokenizer.json, and config.json for its memory; repeat it.",
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="[TAG=]PATH", help="Text to measure, as for plan."),
    ],
    validation: HeldOut = None,
    gpu_memory: GpuMemory = "",
    tokens_per_second: Speed = None,
    output: OutputForm = PrintFormat.TABLE,
) -> None:
    """Show the same text under several base models side by side: tokens, steps, memory, parameters."""
    with problems_on_stderr():
        manifest = _only(filename, option="compare")
        inputs = Inputs(
            data=data or (),
            validation=validation or (),
            gpu_memory=gpu_memory,
            tokens_per_second=tokens_per_second,
        )
        models = {path: find_model(path, config="", option="--model") for path in model}
        with _working(f"Measuring the text under {len(models)} models"):
            candidates = compare_models(manifest, models=models, inputs=inputs)
        name = manifest.name
        if output is PrintFormat.TABLE:
            compare_rendering.render_comparison(candidates, name=name, console=_console())
            return
        _show(
            output,
            lambda: compare_rendering.build_comparison_document(candidates),
            markdown=lambda: compare_rendering.render_comparison_markdown(candidates, name=name),
        )


@app.command()
def languages(
    language: Annotated[
        str, typer.Argument(metavar="[TAG]", help="Tag or name; leave it out to list all.")
    ] = "",
    output: OutputForm = PrintFormat.TABLE,
) -> None:
    """List the languages of the catalogue, or tell all that is known of one."""
    with problems_on_stderr():
        views = find_languages(language) if language else list_languages()
        if output is PrintFormat.TABLE:
            language_rendering.render_languages(views, console=_console())
            return
        _show(
            output,
            lambda: language_rendering.build_languages_document(views),
            markdown=lambda: language_rendering.render_languages_markdown(views),
        )


@app.command()
def validate(filename: File) -> None:
    """Check a resource as the API server would, and its language tags."""
    with problems_on_stderr():
        for name, resolution in _of_each(filename, resolve_manifest).items():
            count = len(resolution.warnings)
            reported = f"; {count} warning{'s' if count > 1 else ''}, see explain" if count else ""
            typer.echo(f"{wire.KIND} {name} is valid{reported}")


def _of_each(filename: str, action: Callable[[ResourceFile], T]) -> dict[str, T]:
    """Return what an action makes of every LanguageFinetune of a file, by name; all problems at once."""
    results: dict[str, T] = {}
    problems: list[str] = []
    for manifest in load_manifests(filename):
        if manifest.name in results:
            problems.append(
                f"{manifest.source}: {wire.KIND} {manifest.name}: stands twice; give each a name of "
                "its own."
            )
            continue
        try:
            results[manifest.name] = action(manifest)
        except InvalidError as error:
            problems += error.lines
    if problems:
        raise InvalidError(problems)
    return results


def _only(filename: str, *, option: str) -> ResourceFile:
    """Return the one resource of a file that an option is about."""
    manifests = load_manifests(filename)
    if len(manifests) > 1:
        names = ", ".join(manifest.name for manifest in manifests)
        raise CliError([f"{option} is for one resource, and {filename} holds {names}; pass one."])
    return manifests[0]


def _show(output: PrintFormat, document: Callable[[], Any], *, markdown: Callable[[], str]) -> None:
    """Write a document as JSON or YAML, or what is Markdown of it."""
    if output is PrintFormat.MARKDOWN:
        typer.echo(markdown())
    else:
        typer.echo(as_json(document()) if output is PrintFormat.JSON else as_yaml(document()))


def _console() -> Console:
    return Console(highlight=False)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Show on a terminal that something takes a while; it leaves no trace."""
    if not what:
        yield
        return
    with Console(stderr=True).status(f"{what} …"):
        yield


register(app)
