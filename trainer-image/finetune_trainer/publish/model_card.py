"""The adapter's card (README.md) and its report.html: what a person reads beside the weights.

Pure: an account of the run in, text out. Every number comes from the account.
"""

import json
from html import escape

from pydantic import JsonValue

from finetune_api.outcome import CorpusLanguage, Evaluation
from finetune_trainer.publish.run_record import DatasetIdentity, RunRecord

CURVE_WIDTH, CURVE_HEIGHT, MARGIN = 720, 240, 40
"""Pixels of the loss curve."""
NOT_EVALUATED = "Nothing was held out, so nothing was evaluated."
CURVE_POINTS = 600
"""Points drawn at most: a curve of more is no finer on a screen."""
DOTS_AT_MOST = 30
"""Points of a line up to which each is marked; more would run together."""


def build_card(account: RunRecord) -> str:
    """Return README.md: what the adapter is, how it was made, how good it is, how it is loaded."""
    plan = account.plan
    sections = [
        _front_matter(account),
        f"# {plan.identity.name}\n",
        _opening(account),
        "## Use\n",
        _usage(account),
        "## Evaluation\n",
        _evaluation(account.evaluation),
        "## Data\n",
        _data(account.corpus, account),
        "## Parameters\n",
        _parameters(account),
        "## Run\n",
        _run(account),
    ]
    return "\n".join(sections)


def build_report(account: RunRecord) -> str:
    """Return report.html: the loss curve and the parameters, in one file that needs nothing else."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td><td>{escape(source)}</td>"
        f"<td>{escape(message)}</td></tr>"
        for name, value, source, message in _parameter_rows(account)
    )
    title = escape(account.plan.identity.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #ddd}"
        "svg{width:100%;height:auto}</style>"
        f"<h1>{title}</h1><p>{escape(_sentence(account))}</p>{_warning_list(account)}"
        f"<h2>Loss</h2>{build_curve(account)}"
        "<p>Blue: training loss of each step. Orange: loss on the held-out part, at step 0 that of the"
        " base model. Nats per supervised token.</p>"
        f"{_evaluation_table(account.evaluation)}<p>{escape(_course(account))}</p>"
        "<h2>Parameters</h2><table><tr><th>Parameter</th><th>Value</th><th>From</th><th>Why</th></tr>"
        f"{rows}</table></html>\n"
    )


def build_curve(account: RunRecord) -> str:
    """Return the loss curve as inline SVG."""
    stride = -(-len(account.history) // CURVE_POINTS)
    training = [(report.step, report.loss) for report in account.history[::stride]]
    held_out = [(r.step, r.eval_loss) for r in account.history if r.eval_loss is not None]
    if account.evaluation is not None:
        held_out.insert(0, (0, account.evaluation.base_loss))
    losses = [loss for _, loss in training + held_out]
    lowest, highest = min(losses), max(losses)
    last = account.history[-1].step

    def place(step: int, loss: float) -> tuple[str, str]:
        x = MARGIN + (CURVE_WIDTH - 2 * MARGIN) * (step / last)
        y = MARGIN + (CURVE_HEIGHT - 2 * MARGIN) * ((highest - loss) / ((highest - lowest) or 1.0))
        return f"{x:.1f}", f"{y:.1f}"

    def line(points: list[tuple[int, float]], colour: str) -> str:
        places = [place(*point) for point in points]
        path = " ".join(f"{x},{y}" for x, y in places)
        # A line through one point is invisible.
        marked = places if len(places) <= DOTS_AT_MOST else []
        dots = "".join(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in marked)
        stroke = f'fill="none" stroke="{colour}" stroke-width="1.5"'
        return f'<polyline points="{path}" {stroke}/>{dots}'

    bottom = CURVE_HEIGHT - MARGIN
    return (
        f'<svg viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" role="img" aria-label="Loss by step">'
        f'<path d="M{MARGIN},{MARGIN}V{bottom}H{CURVE_WIDTH - MARGIN}" fill="none" stroke="#999"/>'
        f'<text x="2" y="{MARGIN + 4}" font-size="11">{highest:.2f}</text>'
        f'<text x="2" y="{bottom}" font-size="11">{lowest:.2f}</text>'
        f'<text x="{CURVE_WIDTH - MARGIN}" y="{bottom + 16}" font-size="11" text-anchor="end">'
        f"step {last}</text>"
        f"{line(training, '#2563eb')}{line(held_out, '#ea580c')}</svg>"
    )


def _front_matter(account: RunRecord) -> str:
    lines = ["---", "library_name: peft"]
    if account.is_hub_model:
        lines.append(f"base_model: {account.base_name}")
    # Quoted: `no` would be YAML's false.
    tags = [json.dumps(language.tag.partition("-")[0]) for language in account.plan.datasets]
    lines += ["language:", *(f"- {tag}" for tag in dict.fromkeys(tags)), "tags:", "- lora"]
    return "\n".join([*lines, "---\n"])


def _sentence(account: RunRecord) -> str:
    tags = ", ".join(dataset.tag for dataset in account.plan.datasets)
    version = "at revision" if account.base_revision else "with the content SHA-256"
    return (
        f"A {account.plan.method.value} adapter for {account.base_name} {version}"
        f" {account.model_revision}, trained on {tags}"
        f" in {account.summary.steps} steps."
    )


def _opening(account: RunRecord) -> str:
    warnings = "".join(f"\n> {_cell(warning)}\n" for warning in account.warnings)
    return f"{_sentence(account)}\n{warnings}"


def _usage(account: RunRecord) -> str:
    revision = f', revision="{account.base_revision}"' if account.base_revision else ""
    base = f'"{account.base_name}"{revision}'
    note = ""
    if not account.is_hub_model:
        base = '"path/to/the/base/model"'
        note = f"The base model is not on a hub: fetch {account.base_name} first.\n\n"
    return (
        f"{note}```python\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({base})\n"
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
        "```\n"
    )


def _evaluation(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return f"{NOT_EVALUATED}\n"
    rows = "".join(f"| {' | '.join(row)} |\n" for row in _evaluation_rows(evaluation))
    return (
        f"On {evaluation.examples} examples that were held out:\n\n"
        f"| | base model | with the adapter |\n|---|---|---|\n{rows}"
    )


def _evaluation_table(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return f"<p>{NOT_EVALUATED}</p>"
    rows = "".join(
        f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in _evaluation_rows(evaluation)
    )
    return (
        f"<table><tr><th>{evaluation.examples} held-out examples</th><th>base model</th>"
        f"<th>with the adapter</th></tr>{rows}</table>"
    )


def _evaluation_rows(evaluation: Evaluation) -> tuple[tuple[str, str, str], ...]:
    return (
        (
            "loss, nats per supervised token",
            f"{evaluation.base_loss:.4f}",
            f"{evaluation.adapter_loss:.4f}",
        ),
        (
            "bits per byte",
            f"{evaluation.base_bits_per_byte:.4f}",
            f"{evaluation.adapter_bits_per_byte:.4f}",
        ),
    )


def _data(corpus: tuple[CorpusLanguage, ...], account: RunRecord) -> str:
    sources = {dataset.tag: _source(dataset) for dataset in account.datasets}
    header = (
        "| language | source | examples | held out | tokens | supervised | p50 | p95 | longest | cut |"
        "\n|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return header + "".join(
        f"| {each.tag} | {_cell(sources.get(each.tag, ''))} | {each.examples} |"
        f" {each.validation_examples} | {each.tokens} | {each.supervised_tokens} | {each.p50} |"
        f" {each.p95} | {each.longest} | {each.truncated} |\n"
        for each in corpus
    )


def _source(dataset: DatasetIdentity) -> str:
    version = f"revision {dataset.revision}" if dataset.revision else f"SHA-256 {dataset.sha256}"
    return f"{dataset.uri} ({version})"


def _parameters(account: RunRecord) -> str:
    header = "| parameter | value | from | why |\n|---|---|---|---|\n"
    return header + "".join(
        f"| {name} | {_cell(value)} | {source} | {_cell(message)} |\n"
        for name, value, source, message in _parameter_rows(account)
    )


def _parameter_rows(account: RunRecord) -> list[tuple[str, str, str, str]]:
    return [
        (
            decision.name,
            _plain(decision.value),
            # An override's rule is the word itself.
            decision.source
            if decision.source.upper() == decision.rule
            else f"{decision.source} {decision.rule}".strip(),
            decision.message,
        )
        for decision in account.plan.decisions
    ]


def _plain(value: JsonValue) -> str:
    """Return a value as people write it: words without quotes, lists without brackets."""
    if isinstance(value, list):
        return ", ".join(_plain(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _run(account: RunRecord) -> str:
    return (
        f"{_course(account)} The plan's hash is `{account.plan.hash}`; environment.json holds the"
        " versions, parameters.json the reasons, metrics.jsonl each step.\n"
    )


def _course(account: RunRecord) -> str:
    """Return what happened in the run, in sentences."""
    summary = account.summary
    opening = (
        f"{summary.steps} of {summary.total_steps} steps, {summary.epochs:.2f} passes,"
        f" {summary.tokens:,} tokens in {summary.train_seconds:.0f} s with {summary.attention or 'eager'}"
        f" attention; {summary.trainable_parameters:,} parameters were trained."
    )
    sentences = [opening]
    if summary.deadline_seconds is not None:
        sentences.append(
            f"Its deadline of {summary.deadline_seconds} seconds ended it before its last step."
        )
    if summary.stopped_early:
        sentences.append("It stopped early.")
    if summary.best_eval_loss is not None:
        sentences.append(
            f"Lowest held-out loss: {summary.best_eval_loss:.4f} at step {summary.best_step}."
        )
    if summary.published_step is not None:
        sentences.append(f"The adapter is that of step {summary.published_step}.")
    return " ".join(sentences)


def _warning_list(account: RunRecord) -> str:
    items = "".join(f"<li>{escape(warning)}</li>" for warning in account.warnings)
    return f"<ul>{items}</ul>" if items else ""


def _cell(text: str) -> str:
    """Return text that a Markdown table holds in one cell."""
    return text.replace("|", "\\|").replace("\n", " ")
