"""docs/cli.md tells every command and option, and shows what really comes out."""

from pathlib import Path
from typing import Any

import typer

from finetune_cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")
GENERAL = {"--help", "--filename", "--output"}
"""Described once for all commands, by their short names."""


def commands():
    group: Any = typer.main.get_command(app)
    return group.commands


def test_every_command_has_its_section():
    assert [name for name in commands() if f"## {name}\n" not in PAGE] == []


def test_every_option_is_told():
    options = {
        option
        for command in commands().values()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    assert sorted(option for option in options - GENERAL if f"`{option}" not in PAGE) == []


def test_the_language_on_the_page_is_what_comes_out():
    golden = ROOT / "tests" / "cases" / "languages" / "hi-80.txt"
    assert golden.read_text("utf-8") in PAGE
