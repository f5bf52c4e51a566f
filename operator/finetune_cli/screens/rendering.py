"""A resolution for people and for programs: JSON, YAML, Markdown, and tables that fit the terminal.

`build_document` is the one JSON shape; YAML is the same. Values are JSON values and names are the
guide's. Nothing here decides anything.
"""

from typing import Any

from pydantic import JsonValue
from rich.console import Console, Group, RenderableType
from rich.text import Text

from finetune_cli.screens.tables import (
    AUTOMATIC,
    TableLayout,
    markdown_table,
    spaced,
    stacked,
    terminal_table,
    value_text,
)
from finetune_resolver import Advice, Alternative, Decision, Resolution, Trait
from finetune_resolver.memory.model_shape import ALL_LINEAR
from finetune_resolver.policies.overrides import MODULE_PRESETS
from finetune_resolver.resolution import DecisionSource, Severity

ADAPTER = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "task_type")
"""Parameters of the adapter; the rest of the guide's are the trainer's."""
PARAMETER_WIDTH = len("per_device_train_batch_size")
ALTERNATIVE_WIDTH = len("Evidence: q_proj, k_proj")


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


def _parameter(decision: Decision) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": decision.parameter,
        "value": decision.value,
        "rule": decision.rule,
        "guideIds": list(decision.guide_ids),
        "source": decision.source.value,
        "message": decision.message,
    }
    if decision.reference:
        document["reference"] = decision.reference
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
        document["alternative"] = _alternative(decision.alternative)
    return document


def _alternative(alternative: Alternative) -> dict[str, Any]:
    document: dict[str, Any] = {
        "policy": alternative.policy.value,
        "value": alternative.value,
        "rule": alternative.rule,
    }
    return document | ({"reference": alternative.reference} if alternative.reference else {})


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
    lines = [f"## {name}", "", f"{headline(resolution)}. {resolution.method.message}", ""]
    lines += markdown_decisions(resolution.decisions)
    if resolution.warnings:
        lines += ["", *markdown_warnings(resolution.warnings)]
    return "\n".join(lines)


def markdown_decisions(decisions: tuple[Decision, ...]) -> list[str]:
    """Return the lines of a table of parameters; with alternatives where any has one."""
    others = any(decision.alternative for decision in decisions)
    head = ["Parameter", "Value", *(["Otherwise"] if others else []), "Rule", "Guide", "Why"]
    rows = []
    for decision in decisions:
        alternative = [_alternative_text(decision)] if others else []
        value = f"`{value_text(decision.value)}`"
        ids = " ".join(decision.guide_ids)
        cells = [f"`{decision.parameter}`", value, *alternative, decision.rule, ids]
        rows.append([*cells, _why(decision)])
    return markdown_table(head, rows)


def markdown_warnings(warnings: tuple[Advice, ...]) -> list[str]:
    """Return the lines of a table of warnings."""
    rows = [(f"`{advice.id}`", advice.severity.value, advice.message) for advice in warnings]
    return markdown_table(("Warning", "Severity", "Message"), rows)


# --- Tables for the terminal --------------------------------------------------------------------


def render_table(resolutions: dict[str, Resolution], *, console: Console) -> None:
    """Print each resolution as tables that fit the console."""
    for name, resolution in resolutions.items():
        console.print(_page(name, resolution, layout=TableLayout.of(console.width)))


def _page(name: str, resolution: Resolution, *, layout: TableLayout) -> RenderableType:
    parts: list[RenderableType] = [
        Text.assemble((name, "bold"), "  ", headline(resolution)),
        Text(resolution.method.message, style="dim"),
        *resolution_tables(resolution, layout=layout),
    ]
    return Group(*parts)


def resolution_tables(resolution: Resolution, *, layout: TableLayout) -> list[RenderableType]:
    """Return the tables of traits, of parameters in three groups, and of warnings."""
    in_guide = [d for d in resolution.decisions if _is_in_guide(d)]
    groups = {
        "Training": [d for d in in_guide if d.parameter not in ADAPTER],
        "Adapter": [d for d in in_guide if d.parameter in ADAPTER],
        "Not in the guide": [d for d in resolution.decisions if not _is_in_guide(d)],
    }
    traits = [_trait_cells(trait) for trait in resolution.traits]
    warnings = [_warning_cells(advice) for advice in resolution.warnings]
    if layout is TableLayout.STACKED:
        parts = [stacked("Traits", ((_beside(*head), detail) for *head, detail in traits))]
        parts += [stacked(title, map(_entry, decisions)) for title, decisions in groups.items()]
        parts += [stacked("Warnings", warnings)] if warnings else []
        return [spaced(part) for part in parts]
    wide = layout is TableLayout.WIDE
    others = wide and any(decision.alternative for decision in resolution.decisions)
    parts = [_traits_table(traits)]
    parts += [
        _decisions_table(title, decisions, wide=wide, others=others)
        for title, decisions in groups.items()
    ]
    parts += [_warnings_table(warnings)] if warnings else []
    return [spaced(part) for part in parts]


def _beside(*texts: Text) -> Text:
    return Text("  ").join(texts)


def _is_in_guide(decision: Decision) -> bool:
    rule = decision.alternative.rule if decision.alternative else decision.rule
    return not rule.startswith("D-")


def headline(resolution: Resolution) -> str:
    """Return policy and method in a few words."""
    return f"policy {resolution.policy.value}, method {resolution.method.value.value}"


def _trait_cells(trait: Trait) -> tuple[Text, Text, Text, Text]:
    value = value_text(trait.value) if isinstance(trait.value, bool) else str(trait.value)
    detail = Text(trait.detail, style="dim")
    return Text(trait.name), Text(value), Text(trait.source.value), detail


def _traits_table(traits: list[tuple[Text, Text, Text, Text]]) -> RenderableType:
    table = terminal_table("Traits")
    table.add_column("trait", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("detail", ratio=1)
    for cells in traits:
        table.add_row(*cells)
    return table


def _decisions_table(
    title: str, decisions: list[Decision], *, wide: bool, others: bool
) -> RenderableType:
    table = terminal_table(title)
    # Fixed widths, so that the three tables of a page stand in line.
    table.add_column("parameter", no_wrap=True, width=PARAMETER_WIDTH)
    table.add_column("value", width=len("q_proj, v_proj") if wide else len(AUTOMATIC))
    if others:
        table.add_column("otherwise", width=ALTERNATIVE_WIDTH)
    table.add_column("why", ratio=1)
    for decision in decisions:
        if others:
            why = Text(_why(decision)).append_text(_cited(decision, wide=wide))
            other = _alternative_text(decision)
            table.add_row(decision.parameter, _value_cell(decision), other, why)
        else:
            reported = _why_with_alternative(decision, wide=wide)
            table.add_row(decision.parameter, _value_cell(decision), reported)
    return table


def _entry(decision: Decision) -> tuple[Text, Text]:
    """Return a decision for a narrow terminal: name with value, and everything about it."""
    head = _beside(Text(decision.parameter), _value_cell(decision))
    return head, _why_with_alternative(decision, wide=False)


def _value_cell(decision: Decision) -> Text:
    style = "yellow" if decision.source is DecisionSource.OVERRIDE else "bold"
    return Text(_short_text(decision.value), style=style)


def _why_with_alternative(decision: Decision, *, wide: bool) -> Text:
    """Return the reason, and below it the other value; an override's own sentence tells it already."""
    why = Text(_why(decision)).append_text(_cited(decision, wide=wide))
    if decision.alternative and decision.source is not DecisionSource.OVERRIDE:
        why.append(f"\n{_alternative_text(decision)}", style="cyan")
    return why


def _cited(decision: Decision, *, wide: bool) -> Text:
    """Return the rule behind a decision with the guide's items, or what evidence it rests on.

    References are long; a narrow table leaves them to the other forms.
    """
    behind = " ".join(decision.guide_ids) or (decision.reference if wide else "")
    return Text(f" [{decision.rule}{f': {behind}' if behind else ''}]", style="dim")


def _alternative_text(decision: Decision) -> str:
    """Return what the other policy, or the policy without the override, would say."""
    other = decision.alternative
    return f"{other.policy.value}: {_short_text(other.value)}" if other else ""


def _short_text(value: JsonValue) -> str:
    """Return a value as a person reads it; the list of all linear layers by the resource's word."""
    return ALL_LINEAR if value == MODULE_PRESETS[ALL_LINEAR] else value_text(value)


def _warning_cells(advice: Advice) -> tuple[Text, Text]:
    style = "yellow" if advice.severity is Severity.WARN else "dim"
    return Text(advice.id, style=style), Text(advice.message)


def _warnings_table(warnings: list[tuple[Text, Text]]) -> RenderableType:
    table = terminal_table("Warnings")
    table.add_column("warning", no_wrap=True)
    table.add_column("message", ratio=1)
    for cells in warnings:
        table.add_row(*cells)
    return table


def _why(decision: Decision) -> str:
    """Return a decision's message and what it supersedes."""
    others = [f"{value_text(s.value)} by {s.rule} is superseded." for s in decision.superseded]
    return " ".join([decision.message, *others])
