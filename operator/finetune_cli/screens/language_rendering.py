"""Languages for people and for programs: the list of the catalogue, and all that is known of one.

`build_language_document` is the one JSON shape, in the list and alone; YAML is the same. Nothing here
decides anything.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from finetune_cli.languages import LanguageView, TokenCost, TraitView
from finetune_cli.screens.tables import TableLayout, markdown_table, spaced, stacked, terminal_table
from finetune_resolver import Trait
from finetune_resolver.traits.trait import TraitSource

BY_GUIDE, BY_SCRIPT = "*", "?"
"""Marks after a value in the list."""
LEGEND = (
    f"{BY_GUIDE} the guide's own label; {BY_SCRIPT} a default of the script, which a measurement of the "
    "text replaces; others by databases."
)
PREMIUM_LEGEND = (
    "class: resource class of 0-5. Numbers: tokens against English for the same content, by family of "
    "tokenizers."
)
LISTED = ("morphology", "tokenDensity", "resourceLevel", "syntaxDistance")
"""Traits in the list."""
FACTS: tuple[tuple[str, str, str], ...] = (
    ("joshi", "resourceClass", "resource class of 0-5 (Joshi et al. 2020)"),
    ("fineweb2_m_words", "fineweb2MillionWords", "million words in FineWeb-2"),
    ("byte_premium", "bytePremium", "UTF-8 bytes against English for the same content"),
    ("wals81_a", "wordOrder", "order of subject, object and verb (WALS 81A)"),
    ("wals49_a", "cases", "cases (WALS 49A)"),
    ("wals22_a", "inflectionalCategories", "inflectional categories a verb carries (WALS 22A)"),
    ("mattr500", "mattr500", "type-token ratio over 500 words (FLORES-200; decides nothing)"),
)
"""Field of the catalogue's facts, its name in documents, and what it means."""
SAME = "the same"
GUIDE_HEAD, EVIDENCE_HEAD = "policy Guide", "policy Evidence"


# --- Documents ----------------------------------------------------------------------------------


def build_language_document(view: LanguageView) -> dict[str, Any]:
    """Return everything known of a language as a JSON document."""
    found = view.found
    return {
        "tag": view.tag,
        "name": view.name,
        "script": found.script,
        "inCatalogue": found.row is not None,
        "row": found.row_tag,
        "otherScript": found.other_script,
        "close": list(found.close),
        "guideIds": list(view.guide_ids),
        "traits": [_trait_document(trait) for trait in view.traits],
        "tokens": [_token_document(cost) for cost in view.tokens],
        "facts": {name: value for name, value, _ in _facts(view)},
    }


def build_languages_document(views: Sequence[LanguageView]) -> dict[str, Any]:
    """Return one language's document, or a list of them."""
    if len(views) == 1:
        return build_language_document(views[0])
    return {"items": [build_language_document(view) for view in views]}


def _trait_document(view: TraitView) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": view.name,
        "guide": _said_document(view.guide),
        "evidence": _said_document(view.evidence),
        "disputed": view.disputed,
    }
    return document | ({"otherwise": view.otherwise} if view.otherwise else {})


def _said_document(trait: Trait | None) -> dict[str, Any] | None:
    if trait is None:
        return None
    value = trait.value if isinstance(trait.value, bool) else str(trait.value)
    return {"value": value, "source": trait.source.value, "detail": trait.detail}


def _token_document(cost: TokenCost) -> dict[str, Any]:
    return {
        "family": cost.family,
        "charactersPerToken": cost.characters_per_token,
        "premium": cost.premium,
        "density": cost.density.value if cost.density else None,
    }


def _facts(view: LanguageView) -> list[tuple[str, Any, str]]:
    """Return the known facts: name, value and meaning."""
    if view.found.row is None:
        return []
    facts = view.found.row.evidence.facts
    said = [(name, getattr(facts, field), meaning) for field, name, meaning in FACTS]
    return [fact for fact in said if fact[1] is not None]


# --- Tables for the terminal --------------------------------------------------------------------


def render_languages(views: Sequence[LanguageView], *, console: Console) -> None:
    """Print one language whole, or several as a list, as wide as the console."""
    console.print(
        _language_page(views[0])
        if len(views) == 1
        else _list_page(views, layout=TableLayout.of(console.width))
    )


def _list_page(views: Sequence[LanguageView], *, layout: TableLayout) -> RenderableType:
    title = f"{len(views)} languages"
    wide = layout is TableLayout.WIDE
    legend = f"{LEGEND} {PREMIUM_LEGEND if wide else ''}".rstrip()
    if layout is TableLayout.STACKED:
        part = stacked(title, (_list_entry(view) for view in views))
    else:
        part = _list_table(views, title=title, families=_families(views) if wide else None)
    return Group(part, spaced(Text(legend, style="dim")))


def _list_entry(view: LanguageView) -> tuple[Text, Text]:
    reported = ", ".join(filter(None, (view.found.script, *_listed(view))))
    return Text.assemble((view.tag, "bold"), "  ", view.name), Text(reported)


def _list_table(
    views: Sequence[LanguageView], *, title: str, families: list[str] | None
) -> RenderableType:
    """Return the list; with resource class and token costs where families are given."""
    table = terminal_table(title)
    table.add_column("tag", no_wrap=True, style="bold")
    table.add_column("language", ratio=1)
    for name in ("script", "morphology", "density", "resource", "syntax"):
        table.add_column(name, no_wrap=True)
    for name in () if families is None else ("class", *families):
        table.add_column(name, no_wrap=True, justify="right")
    for view in views:
        costs = () if families is None else _costs(view, families=families)
        table.add_row(view.tag, view.name, view.found.script, *_listed(view), *costs)
    return table


def _families(views: Sequence[LanguageView]) -> list[str]:
    return list(dict.fromkeys(cost.family for view in views for cost in view.tokens))


def _listed(view: LanguageView) -> list[str]:
    marks = {TraitSource.GUIDE: BY_GUIDE, TraitSource.SCRIPT: BY_SCRIPT}
    said = [view.trait(name).guide for name in LISTED]
    return [f"{trait.value}{marks.get(trait.source, '')}" if trait else "" for trait in said]


def _costs(view: LanguageView, *, families: list[str]) -> list[str]:
    joshi = view.found.row.evidence.facts.joshi if view.found.row else None
    premiums = {cost.family: f"{cost.premium:.2f}" for cost in view.tokens}
    return ["" if joshi is None else str(joshi), *(premiums.get(name, "") for name in families)]


def _language_page(view: LanguageView) -> RenderableType:
    parts: list[RenderableType] = [
        Text.assemble((view.tag, "bold"), "  ", _headline(view)),
        *(Text(note, style="yellow") for note in _notes(view)),
        _traits_table(view),
    ]
    if view.tokens:
        parts.append(_tokens_table(view))
    if _facts(view):
        parts.append(_facts_table(view))
    parts.append(spaced(Text(_closing(view), style="dim")))
    return Group(*parts)


def _headline(view: LanguageView) -> str:
    script = f"script {view.found.script}" if view.found.script else "no script known"
    name = f"{view.name}, " if view.name else ""
    ids = f", in the guide as {' '.join(view.guide_ids)}" if view.guide_ids else ""
    return f"{name}{script}{ids}"


def _notes(view: LanguageView) -> list[str]:
    """Return what a person must know of a tag that has no row of its own."""
    found = view.found
    if found.other_script:
        row = f"{found.row_tag} ({found.row.name if found.row else ''})"
        how = f"the grammar of the catalogue's row {row} counts, its tokens and bytes do not"
        return [f"Written in {found.script}: {how}."]
    if found.row is not None:
        return []
    if not found.known_language:
        return ["No language: traits are what you declare, what is measured, or unset."]
    assumed = f"only its script ({found.script}) decides" if found.script else "nothing decides"
    near = f" The nearest language in it is {', '.join(found.close)}." if found.close else ""
    return [f"Not in the catalogue: {assumed} what you do not declare or measure.{near}"]


def _closing(view: LanguageView) -> str:
    unset = " An unset trait takes the guide's general row." if _has_unset(view) else ""
    return f"What you declare below spec.languages[].traits beats all of this.{unset}"


def _has_unset(view: LanguageView) -> bool:
    return any(trait.guide is None for trait in view.traits)


def _traits_table(view: LanguageView) -> RenderableType:
    table = terminal_table("Traits")
    table.add_column("trait", no_wrap=True)
    table.add_column(GUIDE_HEAD, ratio=1)
    table.add_column("", no_wrap=True, width=1)
    table.add_column(EVIDENCE_HEAD, ratio=1)
    for trait in view.traits:
        style = "yellow" if trait.disputed else ""
        table.add_row(
            trait.name,
            _said(trait.guide, otherwise=trait.otherwise),
            Text("≠" if trait.disputed else "", style=style),
            _evidence(trait, style=style),
        )
    return spaced(table)


def _evidence(trait: TraitView, *, style: str) -> Text:
    """Return what policy Evidence takes; token density is a matter of the tokenizer."""
    if trait.name == "tokenDensity" and trait.otherwise:
        return Text(trait.otherwise, style=style)
    if trait.evidence == trait.guide:
        return Text(SAME, style="dim")
    return _said(trait.evidence, otherwise=trait.otherwise, style=style)


def _said(trait: Trait | None, *, otherwise: str, style: str = "") -> Text:
    if trait is None:
        return Text(f"unset: {otherwise}" if otherwise else "unset", style="dim")
    value = str(trait.value).lower() if isinstance(trait.value, bool) else str(trait.value)
    return Text.assemble((value, style or "bold"), (f", {_where_from(trait)}", "dim"))


def _where_from(trait: Trait) -> str:
    if trait.source is TraitSource.GUIDE:
        return "the guide's label"
    return trait.detail or trait.source.value.lower()


def _tokens_table(view: LanguageView) -> RenderableType:
    table = terminal_table("Tokens, by family of tokenizers", expand=False)
    table.add_column("family", no_wrap=True)
    table.add_column("characters a token", justify="right", no_wrap=True)
    table.add_column("density", no_wrap=True)
    table.add_column("tokens against English", justify="right", no_wrap=True)
    for cost in view.tokens:
        table.add_row(*_token_cells(cost))
    return spaced(table)


def _token_cells(cost: TokenCost) -> tuple[str, str, str, str]:
    density = cost.density.value if cost.density else "on the bound"
    return cost.family, f"{cost.characters_per_token:g}", density, f"{cost.premium:.2f}"


def _facts_table(view: LanguageView) -> RenderableType:
    table = terminal_table("Facts", expand=False)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("what it is")
    for _, value, meaning in _facts(view):
        table.add_row(_number(value), meaning)
    return spaced(table)


def _number(value: Any) -> str:
    return f"{value:,g}" if isinstance(value, int | float) and value < 1000 else _long(value)


def _long(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


# --- Markdown -----------------------------------------------------------------------------------


def render_languages_markdown(views: Sequence[LanguageView]) -> str:
    """Return the list as one Markdown table, or one language as a section."""
    return _markdown_language(views[0]) if len(views) == 1 else _markdown_list(views)


def _markdown_list(views: Sequence[LanguageView]) -> str:
    families = _families(views)
    head = ("Tag", "Language", "Script", *LISTED, "Class", *families)
    rows = [
        (
            f"`{view.tag}`",
            view.name,
            view.found.script,
            *_listed(view),
            *_costs(view, families=families),
        )
        for view in views
    ]
    return "\n".join([*markdown_table(head, rows), "", f"{LEGEND} {PREMIUM_LEGEND}"])


def _markdown_language(view: LanguageView) -> str:
    lines = [f"## {view.tag}", "", f"{_headline(view)}.", ""]
    lines += [line for note in _notes(view) for line in (note, "")]
    lines += markdown_table(
        ("Trait", GUIDE_HEAD, EVIDENCE_HEAD, "Disputed"),
        [
            (
                f"`{trait.name}`",
                _said(trait.guide, otherwise=trait.otherwise).plain,
                _evidence(trait, style="").plain,
                "yes" if trait.disputed else "",
            )
            for trait in view.traits
        ],
    )
    if view.tokens:
        head = ("Tokenizers", "Characters a token", "Density", "Tokens against English")
        lines += ["", *markdown_table(head, [_token_cells(cost) for cost in view.tokens])]
    if _facts(view):
        rows = [(_number(value), meaning) for _, value, meaning in _facts(view)]
        lines += ["", *markdown_table(("Value", "What it is"), rows)]
    return "\n".join([*lines, "", _closing(view)])
