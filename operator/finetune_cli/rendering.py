"""A resolution for people and for programs: JSON, YAML, Markdown, and tables that fit the terminal.

`build_document` is the one JSON shape; YAML is the same. Values are JSON values and names are the
guide's. Nothing here decides anything.
"""

import json
from typing import Any

import yaml
from pydantic import JsonValue
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from finetune_resolver import Advice, Decision, Resolution, Trait
from finetune_resolver.resolution import OVERRIDE, DecisionSource, Severity

WIDE = 110
"""Columns from which rule and guide items get columns of their own."""
ADAPTER = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "task_type")
"""Parameters of the adapter; the rest of the guide's are the trainer's."""
PARAMETER_WIDTH = len("per_device_train_batch_size")
GUIDE_WIDTH = len("G-MSL-3 G-MSL-6 G-JA-1")
AUTOMATIC = "automatic"
"""What a null value is called in tables: it is decided once the data is known."""


def build_document(resolution: Resolution) -> dict[str, Any]:
    """Return the parameters and warnings as a JSON document."""
    return {
        "parameters": [_parameter(decision) for decision in resolution.decisions],
        "warnings": [_warning(advice) for advice in resolution.warnings],
    }


def build_documents(resolutions: dict[str, Resolution]) -> dict[str, Any]:
    """Return one document, or a list of named ones where the file holds several resources."""
    if len(resolutions) == 1:
        return build_document(next(iter(resolutions.values())))
    return {"items": [{"name": name} | build_document(r) for name, r in resolutions.items()]}


def render_json(resolutions: dict[str, Resolution]) -> str:
    """Return the document as JSON."""
    return json.dumps(build_documents(resolutions), indent=2, ensure_ascii=False)


def render_yaml(resolutions: dict[str, Resolution]) -> str:
    """Return the document as YAML."""
    text: str = yaml.safe_dump(
        build_documents(resolutions), sort_keys=False, allow_unicode=True, width=100
    )
    return text.rstrip("\n")


def _parameter(decision: Decision) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": decision.parameter,
        "value": decision.value,
        "rule": decision.rule,
        "guideIds": list(decision.guide_ids),
        "source": decision.source.value,
        "message": decision.message,
    }
    if decision.because:
        document["because"] = [_because(trait) for trait in decision.because]
    if decision.superseded:
        document["superseded"] = [
            {
                "value": superseded.value,
                "rule": superseded.rule,
                "guideIds": list(superseded.guide_ids),
                "message": superseded.message,
            }
            for superseded in decision.superseded
        ]
    if decision.alternative is not None:
        document["alternative"] = {
            "policy": decision.alternative.policy.value,
            "value": decision.alternative.value,
            "rule": decision.alternative.rule,
        }
    return document


def _because(trait: Trait) -> dict[str, Any]:
    value = trait.value if isinstance(trait.value, bool) else str(trait.value)
    document = {"trait": trait.name, "value": value, "source": trait.source.value}
    return document | ({"detail": trait.detail} if trait.detail else {})


def _warning(advice: Advice) -> dict[str, Any]:
    return {
        "id": advice.id,
        "parameter": advice.parameter,
        "severity": advice.severity.value,
        "message": advice.message,
        "reference": advice.reference,
    }


# --- Markdown -----------------------------------------------------------------------------------


def render_markdown(resolutions: dict[str, Resolution]) -> str:
    """Return each resolution as a Markdown section."""
    return "\n\n".join(_markdown(name, resolution) for name, resolution in resolutions.items())


def _markdown(name: str, resolution: Resolution) -> str:
    lines = [f"## {name}", "", f"{_headline(resolution)}. {resolution.method.message}", ""]
    lines += _markdown_table(
        ("Parameter", "Value", "Rule", "Guide", "Why"),
        [
            (f"`{d.parameter}`", f"`{value_text(d.value)}`", d.rule, " ".join(d.guide_ids), _why(d))
            for d in resolution.decisions
        ],
    )
    if resolution.warnings:
        rows: list[tuple[str, ...]] = [
            (f"`{a.id}`", a.severity.value, a.message) for a in resolution.warnings
        ]
        lines += ["", *_markdown_table(("Warning", "Severity", "Message"), rows)]
    return "\n".join(lines)


def _markdown_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


# --- Tables for the terminal --------------------------------------------------------------------


def render_table(resolutions: dict[str, Resolution], *, console: Console) -> None:
    """Print each resolution as tables that fit the console."""
    for name, resolution in resolutions.items():
        console.print(_page(name, resolution, wide=console.width >= WIDE))


def _page(name: str, resolution: Resolution, *, wide: bool) -> RenderableType:
    in_guide = [d for d in resolution.decisions if _is_in_guide(d)]
    adapter = [d for d in in_guide if d.parameter in ADAPTER]
    trainer = [d for d in in_guide if d.parameter not in ADAPTER]
    others = [d for d in resolution.decisions if not _is_in_guide(d)]
    parts: list[RenderableType] = [
        Text.assemble((name, "bold"), "  ", _headline(resolution)),
        Text(resolution.method.message, style="dim"),
        _traits_table(resolution.traits),
        _decisions_table("Training", trainer, wide=wide),
        _decisions_table("Adapter", adapter, wide=wide),
        _decisions_table("Not in the guide", others, wide=wide),
    ]
    if resolution.warnings:
        parts.append(_warnings_table(resolution.warnings))
    return Group(*parts)


def _is_in_guide(decision: Decision) -> bool:
    rule = decision.alternative.rule if decision.alternative else decision.rule
    return not rule.startswith("D-")


def _headline(resolution: Resolution) -> str:
    return f"policy {resolution.policy.value}, method {resolution.method.value.value}"


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold cyan",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        expand=True,
        show_edge=False,
        header_style="dim",
    )


def _traits_table(traits: tuple[Trait, ...]) -> RenderableType:
    table = _table("Traits")
    table.add_column("trait", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("detail", ratio=1, style="dim")
    for trait in traits:
        value = value_text(trait.value) if isinstance(trait.value, bool) else str(trait.value)
        table.add_row(trait.name, value, trait.source.value, trait.detail)
    return _spaced(table)


def _decisions_table(title: str, decisions: list[Decision], *, wide: bool) -> RenderableType:
    table = _table(title)
    # Fixed widths, so that the three tables of a page stand in line.
    table.add_column("parameter", no_wrap=True, width=PARAMETER_WIDTH)
    table.add_column("value", width=len("q_proj, v_proj") if wide else len("automatic"))
    if wide:
        table.add_column("rule", no_wrap=True, width=len(OVERRIDE))
        table.add_column("guide", width=GUIDE_WIDTH, style="dim")
    table.add_column("why", ratio=1)
    for decision in decisions:
        style = "yellow" if decision.source is DecisionSource.OVERRIDE else "bold"
        value = Text(value_text(decision.value), style=style)
        ids = " ".join(decision.guide_ids)
        if wide:
            table.add_row(decision.parameter, value, decision.rule, ids, _why(decision))
        else:
            cited = Text(f" [{decision.rule}{': ' + ids if ids else ''}]", style="dim")
            table.add_row(decision.parameter, value, Text(_why(decision)).append_text(cited))
    return _spaced(table)


def _warnings_table(warnings: tuple[Advice, ...]) -> RenderableType:
    table = _table("Warnings")
    table.add_column("warning", no_wrap=True)
    table.add_column("message", ratio=1)
    for advice in warnings:
        style = "yellow" if advice.severity is Severity.WARN else "dim"
        table.add_row(Text(advice.id, style=style), advice.message)
    return _spaced(table)


def _spaced(part: RenderableType) -> RenderableType:
    return Padding(part, (1, 0, 0, 0))


def _why(decision: Decision) -> str:
    """Return a decision's message and what it supersedes."""
    others = [f"{value_text(s.value)} by {s.rule} is superseded." for s in decision.superseded]
    return " ".join([decision.message, *others])


def value_text(value: JsonValue) -> str:
    """Return a value as a person reads it: JSON, but lists without brackets."""
    if value is None:
        return AUTOMATIC
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
