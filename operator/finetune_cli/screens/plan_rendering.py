"""A plan for people and for programs: what the run would be, what the text is, and every parameter.

`build_plan_document` is the one JSON shape: that of `explain`, with corpus, run, memory and defects
beside it. Nothing here decides anything.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from finetune_api.status import CorpusStatus
from finetune_cli.planning import Plan, RunLength, values_of
from finetune_cli.screens.rendering import (
    build_document,
    headline,
    markdown_decisions,
    markdown_warnings,
    resolution_tables,
)
from finetune_cli.screens.tables import TableLayout, markdown_table, spaced, stacked, terminal_table
from finetune_resolver.decisions.expected_peak import ExpectedMicroBatch
from finetune_resolver.memory.estimate import GB, MEMORY_CEILING, MemoryEstimate
from finetune_resolver.steps import count
from finetune_text.survey.language_report import Finding, LanguageReport

SHOWN_PLACES = 3
"""Places of one kind of defect in a table; documents have all that are kept."""
LANGUAGE_WIDTH = 14
FIGURE_WIDTH = 30
DEFECTS = "Defects of the text"
NEEDS = "Measured before the training, and not known here"
UNKNOWN = "unknown"
WITHOUT_TEXT = "pass --data and --tokenizer"
WITHOUT_SHAPE = "pass --model-config"
WITHOUT_GPU = "trains on CPU"
Line = tuple[str, str, str]
"""What it is, its value, and what is behind it."""


# --- Documents ----------------------------------------------------------------------------------


def build_plan_document(plan: Plan) -> dict[str, Any]:
    """Return a plan as a JSON document."""
    resolution = plan.resolution
    document: dict[str, Any] = {
        "policy": resolution.policy.value,
        "method": {
            "value": resolution.method.value.value,
            "advice": resolution.method.advice.value,
            "guideIds": list(resolution.method.guide_ids),
            "message": resolution.method.message,
        },
        "run": _course_document(plan.course) | {"trainableParameters": plan.trainable_parameters},
        "gpuMemory": _memory_document(plan),
        "corpus": [_corpus_document(corpus) for corpus in plan.corpus],
        "defects": [_defects_document(report) for report in plan.reports],
        "toBeMeasured": [
            {"name": need.name, "tag": need.tag, "why": need.why} for need in plan.needs
        ],
    }
    return document | build_document(resolution)


def build_plans_document(plans: dict[str, Plan]) -> dict[str, Any]:
    """Return one document, or a list of named ones where the file holds several resources."""
    if len(plans) == 1:
        return build_plan_document(next(iter(plans.values())))
    return {"items": [{"name": name} | build_plan_document(plan) for name, plan in plans.items()]}


def _course_document(course: RunLength) -> dict[str, Any]:
    return {
        "effectiveBatch": course.effective_batch,
        "epochs": course.epochs,
        "totalSteps": course.steps,
        "stepsAreRough": course.steps_are_rough,
        "tokens": course.tokens,
        "tokensPerSecond": course.tokens_per_second,
        "seconds": None if course.seconds is None else round(course.seconds),
    }


def _memory_document(plan: Plan) -> dict[str, Any] | None:
    memory = plan.resolution.predicted_memory
    if memory is None:
        return None
    return {
        "predictedBytes": memory.total_bytes,
        "lowBytes": memory.low_bytes,
        "highBytes": memory.high_bytes,
        "parts": {
            "weights": memory.weights_bytes,
            "adapter": memory.adapter_bytes,
            "activations": memory.activations_bytes,
            "logits": memory.logits_bytes,
            "fixed": memory.fixed_bytes,
        },
        "gpuBytes": plan.gpu_memory_bytes,
        "expected": _micro_batch_document(plan.micro_batch),
    }


def _micro_batch_document(micro_batch: ExpectedMicroBatch | None) -> dict[str, Any] | None:
    if micro_batch is None:
        return None
    return {
        "peakBytes": micro_batch.peak.total_bytes,
        "tokensPerMicroBatch": micro_batch.tokens,
        "layersKept": micro_batch.layers_kept,
    }


def _corpus_document(corpus: CorpusStatus) -> dict[str, Any]:
    return corpus.model_dump(mode="json", by_alias=True, exclude_none=True)


def _defects_document(report: LanguageReport) -> dict[str, Any]:
    dump = report.model_dump(mode="json", by_alias=True, include={"findings", "notes"})
    return {"tag": report.profile.tag, **dump}


# --- Tables for the terminal --------------------------------------------------------------------


def render_plan(plans: dict[str, Plan], *, console: Console) -> None:
    """Print each plan as tables that fit the console."""
    for name, plan in plans.items():
        console.print(_page(name, plan, width=console.width))


def _page(name: str, plan: Plan, *, width: int) -> RenderableType:
    layout = TableLayout.of(width)
    parts: list[RenderableType] = [
        Text.assemble((name, "bold"), "  ", headline(plan.resolution)),
        Text(plan.resolution.method.message, style="dim"),
        spaced(_run_part(plan, layout=layout)),
        *_corpus_tables(plan, width=width),
    ]
    if any(report.findings for report in plan.reports):
        parts.append(spaced(_defects_part(plan.reports, layout=layout)))
    if plan.needs:
        parts.append(spaced(_needs_part(plan, layout=layout)))
    return Group(*parts, *resolution_tables(plan.resolution, layout=layout))


def _run_part(plan: Plan, *, layout: TableLayout) -> RenderableType:
    rows = [
        (Text(what), Text(value, style="dim" if value == UNKNOWN else "bold"), Text(behind, "dim"))
        for what, value, behind in run_lines(plan)
    ]
    if layout is TableLayout.STACKED:
        return stacked(
            "Run", ((Text("  ").join((what, value)), reported) for what, value, reported in rows)
        )
    table = terminal_table("Run")
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for row in rows:
        table.add_row(*row)
    return table


def _corpus_tables(plan: Plan, *, width: int) -> Iterator[RenderableType]:
    """Yield tables of figures, with as many languages side by side as fit."""
    side_by_side = max(1, (width - FIGURE_WIDTH) // (LANGUAGE_WIDTH + 2))
    for first in range(0, len(plan.corpus), side_by_side):
        some = plan.corpus[first : first + side_by_side]
        table = terminal_table("Text", expand=False)
        table.add_column("", no_wrap=True, width=FIGURE_WIDTH)
        for corpus in some:
            table.add_column(corpus.tag, no_wrap=True, justify="right")
        for what, cells in corpus_rows(some):
            table.add_row(what, *cells)
        yield spaced(table)
    for corpus in plan.corpus:
        yield from (
            Text(f"{corpus.tag}: {reported}", style="yellow") for reported in corpus.warnings
        )


def _defects_part(reports: Sequence[LanguageReport], *, layout: TableLayout) -> RenderableType:
    rows = [
        (Text(finding.kind.value, style="yellow"), f"{finding.count:,}", Text(_places(finding)))
        for report in reports
        for finding in report.findings
    ]
    if layout is TableLayout.STACKED:
        return stacked(
            DEFECTS, ((kind.append(f"  {count}"), reported) for kind, count, reported in rows)
        )
    table = terminal_table(DEFECTS)
    table.add_column("kind", no_wrap=True)
    table.add_column("rows", no_wrap=True, justify="right")
    table.add_column("where first", ratio=1)
    for row in rows:
        table.add_row(*row)
    return table


def _needs_part(plan: Plan, *, layout: TableLayout) -> RenderableType:
    rows = [
        (Text(f"{need.name} of {need.tag}" if need.tag else need.name), Text(need.why))
        for need in plan.needs
    ]
    if layout is TableLayout.STACKED:
        return stacked(NEEDS, rows)
    table = terminal_table(NEEDS)
    table.add_column("what", no_wrap=True)
    table.add_column("why", ratio=1)
    for row in rows:
        table.add_row(*row)
    return table


def _places(finding: Finding) -> str:
    shown = [f"{place.source} {place.what}" for place in finding.places[:SHOWN_PLACES]]
    more = finding.count - len(shown)
    return "\n".join([*shown, *([f"and {more:,} more"] if more else [])])


# --- What stands in them ------------------------------------------------------------------------


def run_lines(plan: Plan) -> list[Line]:
    """Return what the run would be, line by line."""
    return [
        _steps_line(plan.course),
        _tokens_line(plan.course),
        _parameters_line(plan),
        _memory_line(plan),
        _micro_batch_line(plan),
        _time_line(plan.course),
    ]


def _steps_line(course: RunLength) -> Line:
    batch = f"{course.effective_batch:,} sequences a step"
    passes = f"{course.epochs:g} epochs, " if course.epochs else ""
    if course.steps is None:
        return "optimizer steps", UNKNOWN, f"{passes}{batch}; {WITHOUT_TEXT}"
    about = "about " if course.steps_are_rough else ""
    return "optimizer steps", f"{about}{course.steps:,}", f"{passes}{batch}"


def _tokens_line(course: RunLength) -> Line:
    if course.tokens is None:
        return "tokens", UNKNOWN, WITHOUT_TEXT
    return "tokens", f"{course.tokens:,}", "read over the whole run, chat template included"


def _parameters_line(plan: Plan) -> Line:
    if plan.shape is None or plan.trainable_parameters is None:
        return "trained parameters", UNKNOWN, WITHOUT_SHAPE
    whole = plan.shape.parameters()
    share = 100 * plan.trainable_parameters / whole
    behind = f"{share:.2g} % of the model's {whole:,}"
    return "trained parameters", f"{plan.trainable_parameters:,}", behind


def _memory_line(plan: Plan) -> Line:
    memory = plan.resolution.predicted_memory
    if memory is None:
        return "GPU memory", UNKNOWN, WITHOUT_SHAPE if plan.shape is None else WITHOUT_GPU
    return "GPU memory", f"{memory.total_bytes / GB:.1f} GB", _memory_text(plan, memory)


def _memory_text(plan: Plan, memory: MemoryEstimate) -> str:
    longest = count(values_of(plan.resolution), "max_seq_length")
    low, high = memory.low_bytes / GB, memory.high_bytes / GB
    band = f"for one sequence of {longest:,} tokens ({low:.1f} to {high:.1f})"
    parts = f"weights {memory.weights_bytes / GB:.1f}, adapter {memory.adapter_bytes / GB:.1f}"
    if plan.gpu_memory_bytes is None:
        return f"{band}: {parts}; pass --gpu-memory to compare"
    ceiling = MEMORY_CEILING * plan.gpu_memory_bytes / GB
    return f"{band}: {parts}; {ceiling:.1f} of {plan.gpu_memory_bytes / GB:.1f} may be used"


def _micro_batch_line(plan: Plan) -> Line:
    """Return what the trainer will fill the GPU with."""
    micro_batch, shape = plan.micro_batch, plan.shape
    if plan.resolution.predicted_memory is None or shape is None:
        return "expected peak", UNKNOWN, WITHOUT_SHAPE if shape is None else WITHOUT_GPU
    if micro_batch is None:
        known = plan.gpu_memory_bytes is not None
        return "expected peak", UNKNOWN, WITHOUT_TEXT if known else "pass --gpu-memory"
    kept = f"{micro_batch.layers_kept} of {shape.layers}"
    layers = "all layers kept" if micro_batch.layers_kept == shape.layers else f"{kept} layers kept"
    behind = (
        f"the trainer's own choice on it: {micro_batch.tokens:,} tokens a micro-batch, {layers}"
    )
    return "expected peak", f"{micro_batch.peak.total_bytes / GB:.1f} GB", behind


def _time_line(course: RunLength) -> Line:
    if course.tokens_per_second is None:
        return "training time", UNKNOWN, "pass --tokens-per-second of an earlier run"
    if course.seconds is None:
        return "training time", UNKNOWN, WITHOUT_TEXT
    speed = f"at {course.tokens_per_second:,g} tokens a second; loading and publishing besides"
    return "training time", duration_text(course.seconds), speed


def duration_text(seconds: float) -> str:
    """Return a duration as people say it: 45 s, 12 min, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


FIGURES: tuple[tuple[str, str], ...] = (
    ("examples", "examples to train on"),
    ("validation_examples", "held out"),
    ("tokens", "tokens"),
    ("unique_tokens", "without repetitions"),
    ("supervised_tokens", "with loss"),
    ("chars_per_token", "characters a token"),
    ("bytes_per_token", "bytes a token"),
    ("token_premium", "tokens against English, about"),
    ("truncated_percent", "cut at max_seq_length, %"),
    ("duplicates", "repetitions"),
    ("script_share", "letters in the tag's script"),
    ("type_token_ratio", "type-token ratio"),
    ("code_mixing_index", "code-mixing index"),
)
"""Field of `CorpusStatus` to what it is called."""
LENGTHS: tuple[tuple[str, str], ...] = (
    ("p50", "median length, tokens"),
    ("p95", "95 % are at most"),
    ("p99", "99 % are at most"),
    ("max", "longest"),
)
LENGTHS_AFTER = "token_premium"
"""Figure that the lengths follow."""


def corpus_rows(corpora: Sequence[CorpusStatus]) -> Iterator[tuple[str, list[str]]]:
    """Yield each figure that any text has, with the value of each."""
    for field, name in FIGURES:
        cells = [_figure(getattr(corpus, field)) for corpus in corpora]
        if any(cells):
            yield name, cells
        if field == LENGTHS_AFTER:
            yield from _length_rows(corpora)


def _length_rows(corpora: Sequence[CorpusStatus]) -> Iterator[tuple[str, list[str]]]:
    for field, name in LENGTHS:
        lengths = [corpus.token_lengths for corpus in corpora]
        cells = [_figure(getattr(one, field)) if one else "" for one in lengths]
        if any(cells):
            yield name, cells


def _figure(value: int | str | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else value


# --- Markdown -----------------------------------------------------------------------------------


def render_plan_markdown(plans: dict[str, Plan]) -> str:
    """Return each plan as a Markdown section."""
    return "\n\n".join(_markdown(name, plan) for name, plan in plans.items())


def _markdown(name: str, plan: Plan) -> str:
    resolution = plan.resolution
    lines = [f"## {name}", "", f"{headline(resolution)}. {resolution.method.message}", ""]
    lines += markdown_table(("Run", "Value", "Behind it"), run_lines(plan))
    if plan.corpus:
        head = ("Text", *(corpus.tag for corpus in plan.corpus))
        rows = [(what, *cells) for what, cells in corpus_rows(plan.corpus)]
        lines += ["", *markdown_table(head, rows)]
        lines += [
            f"\n{corpus.tag}: {reported}" for corpus in plan.corpus for reported in corpus.warnings
        ]
    findings = [finding for report in plan.reports for finding in report.findings]
    if findings:
        cells = [(f.kind.value, f"{f.count:,}", _places(f).replace("\n", "; ")) for f in findings]
        lines += ["", *markdown_table(("Defect", "Rows", "Where first"), cells)]
    if plan.needs:
        needs = [(need.name, need.tag, need.why) for need in plan.needs]
        lines += ["", *markdown_table(("To be measured", "Language", "Why"), needs)]
    lines += ["", *markdown_decisions(resolution.decisions)]
    if resolution.warnings:
        lines += ["", *markdown_warnings(resolution.warnings)]
    return "\n".join(lines)
