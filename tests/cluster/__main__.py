"""The lab's command line: parses arguments and calls one function; see README.md."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster import images, kueue, lab, node, s3, tools
from tests.cluster.layout import Layout
from tests.cluster.steps import LabError

Command = Callable[[argparse.Namespace, Layout], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    chosen = build_parser().parse_args(arguments)
    run: Command = chosen.run
    try:
        run(chosen, Layout.from_environment())
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Command, about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
        return command

    for name, run, about in (
        ("tools", _tools, "install what `up` needs"),
        ("up", _up, "bring the lab up"),
    ):
        only = "no node, no S3: nothing that runs pods"
        add(name, run, about).add_argument("--control-plane", action="store_true", help=only)
    add("down", _down, "stop the lab and remove all that it made")
    add("status", _status, "tell what runs")
    add("env", _env, "print shell exports to find the lab by")
    about_s3 = add("s3", _s3, "S3 alone: bring it up, or tell of it")
    about_s3.add_argument("action", choices=("up", "status"))
    add("gpus", _gpus, "let the node claim N GPUs").add_argument("count", type=int)
    add("kueue", _kueue, "install the queue controller Kueue (builds for 7 minutes of CPU once)")
    add("build-base", _build_base, "make the base image of Debian packages")
    build = add("build-image", _build_image, "build an image from a Dockerfile")
    build.add_argument("name")
    build.add_argument("dockerfile", type=Path)
    build.add_argument("--context", type=Path, default=Path())
    build.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    build.add_argument("--target", default="", help="stop at this stage")
    add("load-image", _load_image, "give a built image to the node").add_argument("name")
    add("images", _images, "list the node's images")
    add("prune-images", _prune, "free the disk of what builds keep for the next build")
    return parser


def _tools(chosen: argparse.Namespace, _: Layout) -> None:
    _need_root()
    tools.install_tools(control_plane_only=chosen.control_plane)


def _up(chosen: argparse.Namespace, layout: Layout) -> None:
    _need_root()
    changed = lab.up(layout, control_plane_only=chosen.control_plane)
    print("the lab is up" if changed else "the lab was up already and is healthy", file=sys.stderr)
    print(layout.kubeconfig)


def _down(_: argparse.Namespace, layout: Layout) -> None:
    _need_root()
    changed = lab.down(layout)
    print("the lab is down" if changed else "the lab was down already", file=sys.stderr)


def _status(_: argparse.Namespace, layout: Layout) -> None:
    print(lab.describe(layout))


def _env(_: argparse.Namespace, layout: Layout) -> None:
    print(lab.build_exports(lab.environment(layout), command_folders=tools.command_folders()))


def _s3(chosen: argparse.Namespace, layout: Layout) -> None:
    if chosen.action == "up":
        _need_root()
        lab.up_s3(layout)
    print(json.dumps(s3.describe(layout), indent=2))


def _gpus(chosen: argparse.Namespace, layout: Layout) -> None:
    node.set_gpus(chosen.count, layout=layout)


def _kueue(_: argparse.Namespace, layout: Layout) -> None:
    _need_root()
    kueue.install(layout)


def _build_base(_: argparse.Namespace, __: Layout) -> None:
    _need_root()
    print(images.build_base())


def _build_image(chosen: argparse.Namespace, _: Layout) -> None:
    _need_root()
    build = images.Build(
        name=chosen.name,
        dockerfile=chosen.dockerfile,
        context=chosen.context,
        arguments=images.parse_arguments(chosen.build_arg),
        target=chosen.target,
    )
    print(images.build_image(build))


def _load_image(chosen: argparse.Namespace, layout: Layout) -> None:
    _need_root()
    print(images.load_image(chosen.name, layout=layout))


def _images(_: argparse.Namespace, layout: Layout) -> None:
    print("\n".join(images.list_images(layout)))


def _prune(_: argparse.Namespace, __: Layout) -> None:
    _need_root()
    images.prune()


def _need_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network links, mounts and containers: run it as root")


if __name__ == "__main__":
    sys.exit(main())
