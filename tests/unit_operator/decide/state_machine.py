"""The state machine in docs/concepts.md, drawn from the tuple of steps and from the golden cases.

The steps give the order and the question of each, the cases the phases that each step leads to.
`python -m tests.unit_operator.decide.state_machine` writes it; a test holds page and code equal.
"""

import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from finetune_operator.decide.decide import STEPS, Step
from tests.unit_operator.decide.story import CASES, build_state, context_of, tell

PAGE = Path(__file__).parents[3] / "docs" / "concepts.md"
BEGIN = "<!-- state machine: written by `python -m tests.unit_operator.decide.state_machine` -->\n"
END = "<!-- end of state machine -->\n"


def build_section() -> str:
    """Return the diagram and the table of steps as Markdown."""
    phases = find_phases()
    return BEGIN + _draw(phases) + "\n" + _tabulate(phases) + END


def find_phases() -> dict[Step, dict[str, str]]:
    """Return for each step the phases that it writes in the golden cases, with the first case of each."""
    found: dict[Step, dict[str, str]] = {step: {} for step in STEPS}
    for case in sorted(path.name for path in CASES.iterdir() if path.is_dir()):
        reported = tell(case)
        state = build_state(reported, context=context_of(case))
        step = next(step for step in STEPS if step(state) is not None)
        phase = (reported.actions.status or {}).get("phase")
        if phase is not None:
            found[step].setdefault(phase, case)
    return found


def read_section() -> str:
    """Return the section as it stands in the page."""
    page = PAGE.read_text(encoding="utf-8")
    return BEGIN + page.partition(BEGIN)[2].partition(END)[0] + END


def _draw(phases: dict[Step, dict[str, str]]) -> str:
    names = [_name(step) for step in STEPS]
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"  {name}[{name}]" for name in names]
    lines += [f"  {one} -- no answer --> {two}" for one, two in pairwise(names)]
    for step in STEPS:
        if phases[step]:
            words = "<br/>".join(sorted(phases[step]))
            lines.append(f'  {_name(step)} -- answers --> {_name(step)}_phase(["{words}"])')
    return "\n".join([*lines, "```", ""])


def _tabulate(phases: dict[Step, dict[str, str]]) -> str:
    rows = [
        "| step | file | what it does | phases, with a case of `tests/cases/operator` |",
        "|---|---|---|---|",
    ]
    for step in STEPS:
        file = Path(inspect.getfile(step)).name
        shown = ", ".join(f"{phase} (`{case}`)" for phase, case in sorted(phases[step].items()))
        rows.append(f"| `{_name(step)}` | `{file}` | {_question(step)} | {shown or 'as before'} |")
    return "\n".join(rows) + "\n"


def _name(step: Step) -> str:
    return str(getattr(step, "__name__", step))


def _question(step: Callable[..., object]) -> str:
    return (inspect.getdoc(step) or "").partition("\n")[0].rstrip(".")


if __name__ == "__main__":
    PAGE.write_text(
        PAGE.read_text(encoding="utf-8").replace(read_section(), build_section()), encoding="utf-8"
    )
