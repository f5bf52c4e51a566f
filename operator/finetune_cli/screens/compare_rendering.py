"""A comparison for people and for programs: one column a base model.

`build_comparison_document` is the one JSON shape; each model's plan stands in it as `plan` shows it.
Nothing here decides anything.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from finetune_api.profile import LanguageProfile
from finetune_cli.comparing import Candidate, fewest_tokens, find_differences
from finetune_cli.planning import Plan
from finetune_cli.screens.plan_rendering import build_plan_document, run_lines
from finetune_cli.screens.tables import markdown_table, spaced, terminal_table, value_text

NOTHING = "–"
"""Where a model has no such figure."""
FIGURES: tuple[tuple[str, str], ...] = (
    ("characters_per_token", "characters a token"),
    ("bytes_per_token", "bytes a token"),
    ("p50", "median length, tokens"),
    ("p99", "99 % are at most"),
    ("longest", "longest"),
)
"""Field of a language's profile to what it is called."""
ALWAYS_SHOWN = "max_seq_length"
"""The parameter that stands beside lengths, whether it differs or not."""
MOST_WIDTH = 24
"""Characters of a model's column."""
GAP = 3
"""Characters between two columns."""
Row = tuple[str, list[str]]


# --- Documents ----------------------------------------------------------------------------------


def build_comparison_document(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return a comparison as a JSON document."""
    return {
        "models": [_candidate_document(each) for each in candidates],
        "differences": [
            {"name": difference.name, "values": list(difference.values)}
            for difference in find_differences(candidates)
        ],
    }


def _candidate_document(candidate: Candidate) -> dict[str, Any]:
    document: dict[str, Any] = {"name": candidate.name, "path": candidate.path}
    if candidate.plan is None:
        return document | {"problem": candidate.problem}
    profile = candidate.plan.profile
    tokenizer = profile.tokenizer.model_dump(mode="json", by_alias=True) if profile else None
    return document | {
        "tokens": candidate.tokens,
        "densities": list(candidate.densities),
        "tokenizer": tokenizer,
        "plan": build_plan_document(candidate.plan),
    }


# --- Rows ---------------------------------------------------------------------------------------


def comparison_groups(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[Row]]]:
    """Yield each group of rows with its title."""
    yield "Tokenizer", list(_tokenizer_rows(candidates))
    planned = next(each.plan for each in candidates if each.plan)
    tags = [text.tag for text in planned.profile.languages] if planned.profile else []
    for index, tag in enumerate(tags):
        yield f"Text of {tag}", list(_text_rows(candidates, index=index))
    yield "Run", list(_run_rows(candidates))
    differing = [
        (difference.name, [_value(value) for value in difference.values])
        for difference in find_differences(candidates)
        if difference.name != ALWAYS_SHOWN
    ]
    if differing:
        yield "Parameters that differ", differing
    warnings = list(_warning_rows(candidates))
    if warnings:
        yield "Warnings", warnings


def _tokenizer_rows(candidates: Sequence[Candidate]) -> Iterator[Row]:
    profiles = [each.plan.profile if each.plan else None for each in candidates]
    tokenizers = [profile.tokenizer if profile else None for profile in profiles]
    if any(one and one.family for one in tokenizers):
        yield "family", [one.family or NOTHING if one else NOTHING for one in tokenizers]
    yield "vocabulary", [f"{one.vocabulary:,}" if one else NOTHING for one in tokenizers]
    fewest = fewest_tokens(candidates)
    yield "tokens", [_number(each.tokens) for each in candidates]
    if fewest:
        ratios = [each.tokens / fewest if each.tokens else None for each in candidates]
        yield "against the fewest", [NOTHING if one is None else f"{one:.2f} x" for one in ratios]


def _text_rows(candidates: Sequence[Candidate], *, index: int) -> Iterator[Row]:
    texts = [_text(each, index=index) for each in candidates]
    for field, name in FIGURES:
        yield name, [_number(getattr(text, field)) if text else NOTHING for text in texts]
    yield "token density, measured", [_density(each, index=index) for each in candidates]
    corpora = [each.plan.corpus[index] if each.plan else None for each in candidates]
    premiums = [corpus.token_premium if corpus else None for corpus in corpora]
    if any(premiums):
        yield "tokens against English, about", [one or NOTHING for one in premiums]
    if any(text.invalid for text in texts if text):
        yield (
            "rows that training refuses",
            [_number(text.invalid) if text else NOTHING for text in texts],
        )
    cut = [corpus.truncated_percent if corpus else None for corpus in corpora]
    if any(cut):
        yield "cut at max_seq_length, %", [one or NOTHING for one in cut]


def _warning_rows(candidates: Sequence[Candidate]) -> Iterator[Row]:
    """Yield each warning that a model has, and with which."""
    found = [
        {advice.id for advice in each.plan.resolution.warnings} if each.plan else None
        for each in candidates
    ]
    ids = dict.fromkeys(
        advice.id for each in candidates if each.plan for advice in each.plan.resolution.warnings
    )
    for reported in ids:
        yield (
            reported,
            [NOTHING if one is None else "yes" if reported in one else "" for one in found],
        )


def _text(candidate: Candidate, *, index: int) -> LanguageProfile | None:
    profile = candidate.plan.profile if candidate.plan else None
    return profile.languages[index] if profile else None


def _density(candidate: Candidate, *, index: int) -> str:
    return (candidate.densities[index] if candidate.densities else "") or NOTHING


def _run_rows(candidates: Sequence[Candidate]) -> Iterator[Row]:
    density = [_trait(each.plan, name="tokenDensity") for each in candidates]
    yield "token density that decides", density
    yield "method", [_method(each.plan) for each in candidates]
    yield ALWAYS_SHOWN, [_value(each.value(ALWAYS_SHOWN)) for each in candidates]
    lines = [run_lines(each.plan) if each.plan else None for each in candidates]
    names = next(each for each in lines if each)
    for place, (name, _, _) in enumerate(names):
        cells = [each[place][1] if each else NOTHING for each in lines]
        if any(cell not in ("unknown", NOTHING) for cell in cells):
            yield name, cells


def _trait(plan: Plan | None, *, name: str) -> str:
    traits = plan.resolution.traits if plan else ()
    return next((str(trait.value) for trait in traits if trait.name == name), NOTHING)


def _method(plan: Plan | None) -> str:
    return plan.resolution.method.value.value if plan else NOTHING


def _value(value: Any) -> str:
    return NOTHING if value is None else value_text(value)


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


# --- Forms --------------------------------------------------------------------------------------


def render_comparison(candidates: Sequence[Candidate], *, name: str, console: Console) -> None:
    """Print a comparison as a table with a column a model; as several where they do not fit."""
    groups = list(comparison_groups(candidates))
    widths = [_width(each, place, groups=groups) for place, each in enumerate(candidates)]
    labels = max(len(what) for _, rows in groups for what, _ in rows)
    tables = [
        spaced(_table(candidates, places=places, groups=groups, widths=widths))
        for places in _side_by_side(widths, room=console.width - labels)
    ]
    problems = [spaced(Text(reported, style="yellow")) for reported in problem_lines(candidates)]
    console.print(Group(Text(name, style="bold"), *tables, *problems))


def _table(
    candidates: Sequence[Candidate],
    *,
    places: Sequence[int],
    groups: list[tuple[str, list[Row]]],
    widths: Sequence[int],
) -> RenderableType:
    """Return the columns of the models at `places`."""
    table = terminal_table("", expand=False)
    table.add_column("", no_wrap=True)
    fewest = fewest_tokens(candidates)
    for place in places:
        each = candidates[place]
        table.add_column(
            Text(each.name, style="bold"),
            justify="right",
            style="green" if each.tokens and each.tokens == fewest else "",
            overflow="fold",
            width=widths[place],
        )
    for title, rows in groups:
        gap = "\n" if table.row_count else ""
        table.add_row(Text(f"{gap}{title}", style="bold cyan"))
        for what, cells in rows:
            table.add_row(what, *(cells[place] for place in places))
    return table


def _side_by_side(widths: Sequence[int], *, room: int) -> list[list[int]]:
    """Return which columns stand together so that each table fits; at least one in each."""
    tables: list[list[int]] = [[]]
    left = room
    for place, width in enumerate(widths):
        if tables[-1] and width + GAP > left:
            tables.append([])
            left = room
        tables[-1].append(place)
        left -= width + GAP
    return tables


def _width(candidate: Candidate, place: int, *, groups: list[tuple[str, list[Row]]]) -> int:
    """Return the width of a model's column; long lists and names are folded."""
    cells = [cells[place] for _, rows in groups for _, cells in rows]
    return min(MOST_WIDTH, max(map(len, (candidate.name, *cells))))


def render_comparison_markdown(candidates: Sequence[Candidate], *, name: str) -> str:
    """Return a comparison as a Markdown section."""
    lines = [f"## {name}"]
    for title, rows in comparison_groups(candidates):
        head = (title, *(each.name for each in candidates))
        lines += ["", *markdown_table(head, [(what, *cells) for what, cells in rows])]
    return "\n".join([*lines, *(f"\n{reported}" for reported in problem_lines(candidates))])


def problem_lines(candidates: Sequence[Candidate]) -> list[str]:
    """Return why some models cannot be planned with."""
    return [f"{each.name}: {each.problem}" for each in candidates if each.plan is None]
