"""The commands of `kubectl finetune` that need a cluster."""

import re
from typing import Annotated

import typer

from finetune_api import wire
from finetune_cli.cluster.finished import WaitEnd, describe_progress, describe_resource, read_status
from finetune_cli.cluster.following import Following, follow
from finetune_cli.cluster.kubectl import Kubectl
from finetune_cli.command_output import PrintFormat, problems_on_stderr
from finetune_cli.errors import CliError
from finetune_cli.inputs.checking import resolve_manifest
from finetune_cli.inputs.manifests import load_manifests
from finetune_cli.screens.tables import as_json, as_yaml

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\d+)([smhd])")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the LanguageFinetune.")]
Namespace = Annotated[
    str,
    typer.Option("-n", "--namespace", metavar="NAMESPACE", help="Instead of the context's own."),
]
Timeout = Annotated[
    str,
    typer.Option("--timeout", metavar="DURATION", help="Such as 90s, 30m, 6h; without it, no end."),
]
Form = Annotated[PrintFormat, typer.Option("-o", "--output", help="Form of the result.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (status, wait, watch, logs, submit, suspend, resume):
        app.command()(command)


def status(name: Name, namespace: Namespace = "", output: Form = PrintFormat.TABLE) -> None:
    """Show where a resource of the cluster is: phase, held-out gain, adapter, warnings."""
    with problems_on_stderr():
        body = Kubectl(namespace).read(name)
        if output is PrintFormat.JSON:
            typer.echo(as_json(body.get("status") or {}))
        elif output is PrintFormat.YAML:
            typer.echo(as_yaml(body.get("status") or {}))
        else:
            typer.echo("\n".join(describe_resource(body)))


def wait(name: Name, namespace: Namespace = "", timeout: Timeout = "") -> None:
    """Wait for the end of a run: exit code 0 complete, 1 failed, 124 out of time."""
    _follow(name, namespace=namespace, timeout=timeout, is_shown=False)


def watch(name: Name, namespace: Namespace = "", timeout: Timeout = "") -> None:
    """Print a line whenever a run has moved, until it ends; exit codes as of `wait`."""
    _follow(name, namespace=namespace, timeout=timeout, is_shown=True)


def logs(
    name: Name,
    *,
    namespace: Namespace = "",
    follow_log: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on while the pod writes.")
    ] = False,
) -> None:
    """Print the trainer's log of a resource's newest Job."""
    with problems_on_stderr():
        kubectl = Kubectl(namespace)
        body = kubectl.read(name)
        attempts = read_status(body).attempts
        if not attempts:
            raise CliError(
                [f"{wire.KIND} {name} has no training pod yet: {describe_progress(body)}"]
            )
        raise typer.Exit(kubectl.follow_logs(attempts[-1].job_name, follow=follow_log))


def submit(
    *,
    filename: Annotated[
        str, typer.Option("-f", "--filename", metavar="FILE", help="File with the resource.")
    ],
    namespace: Namespace = "",
) -> None:
    """Validate a file as `validate` does, then apply it to the cluster."""
    with problems_on_stderr():
        if filename == "-":
            raise CliError(["submit reads a file twice, so - cannot be used; name a file."])
        for manifest in load_manifests(filename):
            resolve_manifest(manifest)
        typer.echo(Kubectl(namespace).apply(filename), nl=False)


def suspend(name: Name, namespace: Namespace = "") -> None:
    """Hold a run: its pod saves a checkpoint and gives its GPU back."""
    with problems_on_stderr():
        typer.echo(Kubectl(namespace).set_suspend(name, suspend=True), nl=False)


def resume(name: Name, namespace: Namespace = "") -> None:
    """Go on with a run that `suspend` holds, from its newest checkpoint."""
    with problems_on_stderr():
        typer.echo(Kubectl(namespace).set_suspend(name, suspend=False), nl=False)


def parse_duration(text: str) -> float | None:
    """Return the seconds of `90s`, `30m`, `1h30m`; None of an empty text.

    Raises:
        CliError: it is no duration.
    """
    if not text:
        return None
    if not re.fullmatch(rf"(?:{DURATION.pattern})+", text):
        raise CliError([f"--timeout {text}: is no duration; write such as 90s, 30m, 1h30m or 2d."])
    return float(sum(int(count) * SECONDS[unit] for count, unit in DURATION.findall(text)))


def _follow(name: str, *, namespace: str, timeout: str, is_shown: bool) -> None:
    with problems_on_stderr():
        following = Following(timeout_s=parse_duration(timeout))
        if is_shown:
            following = Following(timeout_s=following.timeout_s, say=typer.echo)
        end, body = follow(Kubectl(namespace), name=name, following=following)
        if end is WaitEnd.TIMED_OUT:
            typer.echo(
                f"{name} has not ended within {timeout}: {describe_progress(body)}", err=True
            )
        elif not is_shown:
            typer.echo(describe_progress(body), err=end is WaitEnd.FAILED)
        raise typer.Exit(int(end))
