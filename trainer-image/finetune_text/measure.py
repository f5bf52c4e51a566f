"""Measure: one language's files in, one report out.

On top of this package; called by the Measure pod and by the CLI with a tokenizer that they loaded.
It reads each file once, in batches; what is kept of a row is sixty bytes of numbers and, for near
duplicates, a signature, and both have an end (`MOST_ROWS`, `MOST_TEXTS`). Nothing is downloaded here and
nothing decides a parameter: that is the resolver's, from the profile.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.plan import PlannedDataset
from finetune_api.profile import (
    CANDIDATE_LENGTHS,
    CONTENT_CHARACTERS,
    MOST_COUNTED,
    LanguageProfile,
    merge_notes,
)
from finetune_text.counting import count_of
from finetune_text.rows.bad_rows import has_too_many, is_skippable
from finetune_text.rows.column_census import ColumnCensus
from finetune_text.rows.data_errors import Fault
from finetune_text.rows.examples import Example
from finetune_text.rows.reading import TextFile, read_lines
from finetune_text.survey.language_report import (
    BREAKING,
    FindingKind,
    LanguageReport,
    LengthReport,
    Notebook,
    Place,
    first_places,
)
from finetune_text.survey.lengths import lengths_to_count
from finetune_text.survey.mojibake import find_mojibake
from finetune_text.survey.near_duplicates import MOST_TEXTS, NearDuplicates
from finetune_text.survey.row_figures import RowFigures, weigh_rows
from finetune_text.survey.row_store import (
    Mask,
    RowPlaces,
    RowStore,
    find_first,
    find_longest,
    find_repeats,
    nearest_rank,
)
from finetune_text.survey.text_survey import TextSurvey, fold_key
from finetune_text.survey.words import fold
from finetune_text.tokenization.held_out import decide_evaluated, decide_held_out, hash_example
from finetune_text.tokenization.sequences import BATCH, Sequencer, TokenizationRules
from finetune_text.tokenization.tally import Tally

UNCUT = 2**31 - 1
"""A length that cuts nothing."""


BATCH_CHARACTERS = 1_000_000
"""Characters tokenised at once at most, but for one long row: one takes up to 940 bytes meanwhile."""
MOST_ROWS = 10_000_000
"""Rows of one language that are measured; later ones are counted, and checked as all are. This bounds the
memory of the Measure pod, whose limit is 4 GiB in the chart: 0.6 GB for the rows and as much while they
are summed up, 0.7 GB for near duplicates, 0.5 GB for the largest tokenizer we know (Gemma's), and 1.9 GB
while the longest row is tokenised in a script that the tokenizer writes byte by byte. The last is free
again before the rows are summed up (2.1 GiB in all at ten million, measured without a tokenizer), so that
at most 3.7 GB come together, as computed from the parts."""


@dataclass(frozen=True)
class LanguageText:
    """The text of one language on the disk, and how it is read."""

    dataset: PlannedDataset
    train: Sequence[TextFile]
    validation: Sequence[TextFile] = ()
    """Empty where the held-out part is a fraction of `train`."""
    max_seq_length: int | None = None
    """Length that the resource sets, in tokens; what it leaves is counted beside the usual lengths."""
    sha256: str = ""
    """Over names and contents of all files, where somebody computed it."""


def build_sequencer(
    tokenizer: Any, *, generation: Mapping[str, Any], completion_only: bool
) -> Sequencer:
    """Return what makes tokens and labels as training does, without cutting.

    Args:
        tokenizer: A `FastTokenizer`, or one of transformers.
        generation: The model's generation config; empty where it has none.
        completion_only: Answers alone carry loss.
    """
    rules = TokenizationRules(max_seq_length=UNCUT, completion_only=completion_only)
    return Sequencer(tokenizer, rules=rules, generation=generation)


def measure_language(
    text: LanguageText, sequencer: Sequencer, *, most_rows: int = MOST_ROWS
) -> LanguageReport:
    """Read one language's files and return everything that was measured of the first rows.

    Raises:
        TextInvalid: Columns that nothing can be learned from, or chats without a chat template.
    """
    reading = _Reading(text, sequencer, most_rows=most_rows)
    reading.read_train()
    return reading.conclude()


class _Reading:
    """One language's files while they are read, row by row."""

    def __init__(self, text: LanguageText, sequencer: Sequencer, *, most_rows: int) -> None:
        self._most_rows = most_rows
        self._text = text
        self._sequencer = sequencer
        self._survey = TextSurvey(text.dataset.tag)
        self._near = NearDuplicates()
        self._seen: set[int] = set()
        self._rows = RowStore()
        self._notes = Notebook()
        self._tally = Tally()
        self._unmeasured = 0
        self._columns = ColumnCensus(text.dataset.tag)
        self._read_rows = 0

    # --- Reading ---

    def read_train(self) -> None:
        """Read every row of the training files."""
        for number, file in enumerate(self._text.train):
            batch: list[tuple[int, Example]] = []
            characters = 0
            for line, example in self._learnable(file):
                if len(self._rows) + len(batch) >= self._most_rows:
                    self._unmeasured += 1
                    continue
                batch.append((line, example))
                characters += len(example.words())
                if len(batch) == BATCH or characters >= BATCH_CHARACTERS:
                    self._take(number, batch)
                    batch, characters = [], 0
            self._take(number, batch)

    def _learnable(self, file: TextFile) -> Iterator[tuple[int, Example]]:
        """Yield what can be learned from, and note what cannot."""
        dataset = self._text.dataset
        for line, found in read_lines(dataset, file, columns=self._columns):
            self._read_rows += 1
            source = f"{file.source} line {line}" if line else file.source
            if isinstance(found, Fault) and is_skippable(dataset, found):
                self._notes.note(FindingKind.SKIPPED_ROW, source, f"{found.problem}; {found.rule}")
            elif isinstance(found, Fault):
                self._notes.note(FindingKind.INVALID_ROW, source, f"{found.problem}; {found.rule}")
            elif found.is_empty:
                what = "is marked not to be learned" if found.is_marked else "has nothing to learn"
                self._notes.note(FindingKind.EMPTY_ROW, source, what)
            else:
                yield line, found

    def _take(self, file: int, batch: Sequence[tuple[int, Example]]) -> None:
        examples = [example for _, example in batch]
        figures = weigh_rows(self._sequencer, examples, self._tally)
        for (line, example), weighed in zip(batch, figures, strict=True):
            if weighed is not None:
                self._add(file, line, example, weighed)
        for source, words in self._tally.refusals:
            what = f"is not taken by the model's chat template ({words.rstrip('.')})"
            self._notes.note(FindingKind.TEMPLATE_REFUSED, source, what)
        self._tally.refusals.clear()
        for source, token in self._tally.rows_with_control_tokens:
            what = (
                f"holds the control token {token!r} in its text, which the model reads as structure"
            )
            self._notes.note(FindingKind.CONTROL_IN_TEXT, source, what)
        self._tally.rows_with_control_tokens.clear()

    def _add(self, file: int, line: int, example: Example, figures: RowFigures) -> None:
        words = example.words()
        surveyed = self._survey.add(words)
        wrong = find_mojibake(words)
        if wrong:
            self._notes.note(FindingKind.MOJIBAKE, example.source, wrong)
        if surveyed.other_script:
            self._notes.note(FindingKind.OTHER_SCRIPT, example.source, surveyed.other_script)
        if not figures.supervised:
            self._notes.note(FindingKind.UNSUPERVISED, example.source, "has no token to learn")
        if self._near.is_full or surveyed.key not in self._seen:
            # Without end they would take more memory than the signatures.
            if not self._near.is_full:
                self._seen.add(surveyed.key)
            self._near.add(len(self._rows), surveyed.shingles)
        self._rows.place(file=file, line=line, key=surveyed.key, content=hash_example(example))
        self._rows.add(figures, has_mojibake=wrong is not None)

    def _source(self, row: int) -> str:
        return f"{self._text.train[self._rows.file[row]].source} line {self._rows.line[row]}"

    # --- What came out ---

    def conclude(self) -> LanguageReport:
        """Return the report of what was read."""
        held = self._hold_out()
        repeats, first = find_repeats(self._rows.keys(), ~held.rows)
        for row in np.flatnonzero(repeats):
            what = f"repeats {self._source(int(first[row]))}"
            self._notes.note(FindingKind.EXACT_DUPLICATE, self._source(int(row)), what)
        near = self._find_near(~held.rows & ~repeats)
        for what, (count, where) in self._tally.dropped.items():
            rows = count_of(count, "row")
            what_left = f"is the first of {rows} of which the chat template leaves out {what}"
            self._notes.note(FindingKind.TEMPLATE_LEAVES_OUT, where, what_left, rows=count)
        for column in self._columns.unread():
            self._notes.note(FindingKind.UNREAD_COLUMN, column.source, column.describe())
        if has_too_many(self._notes.count(FindingKind.SKIPPED_ROW), rows=self._read_rows):
            self._notes.move(FindingKind.SKIPPED_ROW, to=FindingKind.INVALID_ROW)
        return self._build_report(held=held, repeats=repeats, near=near)

    def _hold_out(self) -> "_HeldOut":
        """Return what is held out, and note what of it is trained on too."""
        if self._text.validation:
            return self._read_validation()
        wanted = self._text.dataset.validation
        chosen = decide_held_out(
            self._rows.contents(), fraction=wanted.fraction, max_examples=wanted.max_examples
        )
        held = self._rows.having(chosen)
        keys = self._rows.keys()[held]
        sources = [self._source(int(row)) for row in np.flatnonzero(held)]
        overlap = self._note_overlap(keys, sources, trained=~held)
        return _HeldOut(rows=held, examples=len(sources), overlap=overlap)

    def _read_validation(self) -> "_HeldOut":
        """Read the held-out dataset of its own; its rows are not measured otherwise."""
        rows = RowPlaces()
        for number, file in enumerate(self._text.validation):
            for line, example in self._learnable(file):
                key = fold_key(fold(example.words()))
                rows.place(file=number, line=line, key=key, content=hash_example(example))
        evaluated = decide_evaluated(
            rows.contents(), max_examples=self._text.dataset.validation.max_examples
        )
        kept = np.flatnonzero(rows.having(evaluated)).tolist()
        sources = [
            f"{self._text.validation[rows.file[row]].source} line {rows.line[row]}" for row in kept
        ]
        nothing: Mask = np.zeros(len(self._rows), dtype=np.bool_)
        overlap = self._note_overlap(rows.keys()[kept], sources, trained=~nothing)
        return _HeldOut(rows=nothing, examples=len(kept), overlap=overlap)

    def _note_overlap(
        self, keys: NDArray[np.uint64], sources: Sequence[str], *, trained: Mask
    ) -> int:
        """Note which held-out rows are trained on too, and return how many; shape of keys: (rows,)."""
        first = find_first(self._rows.keys(), trained, sought=keys)
        for place in np.flatnonzero(first >= 0).tolist():
            what = f"is held out, and {self._source(int(first[place]))} trains on the same text"
            self._notes.note(FindingKind.OVERLAP, sources[place], what)
        return int((first >= 0).sum())

    def _find_near(self, wanted: Mask) -> Mask:
        """Return which rows are nearly an earlier one."""
        near: Mask = np.zeros(len(self._rows), dtype=np.bool_)
        for found in self._near.find(wanted):
            near[found.text] = True
            what = f"is {found.similarity:.0%} like {self._source(found.earlier)}"
            self._notes.note(FindingKind.NEAR_DUPLICATE, self._source(found.text), what)
        return near

    def _build_report(self, *, held: "_HeldOut", repeats: Mask, near: Mask) -> LanguageReport:
        trained = ~held.rows
        findings = self._notes.close()
        counts = {finding.kind: finding.count for finding in findings}
        lengths = self._rows.numbers("length")
        limits = self._report_lengths(trained)
        profile = LanguageProfile(
            tag=self._text.dataset.tag,
            content=self._text.sha256[:CONTENT_CHARACTERS],
            validation_examples=held.examples,
            overlap=held.overlap,
            empty=_at_most(counts.get(FindingKind.EMPTY_ROW, 0)),
            invalid=_at_most(sum(counts.get(kind, 0) for kind in BREAKING)),
            unmeasured=_at_most(self._unmeasured) or None,
            uncompared=self._near.left_out or None,
            truncated=tuple(
                limit.truncated for limit in limits if limit.length in CANDIDATE_LENGTHS
            ),
            notes=merge_notes(
                (
                    *self._tally.describe(self._text.dataset.tag, with_uri=False),
                    *self._columns.describe(),
                )
            ),
            first_places=first_places(findings),
            skipped=_at_most(counts.get(FindingKind.SKIPPED_ROW, 0)) or None,
            **self._survey_figures(),
            **self._row_figures(trained, repeats=repeats, near=near),
        )
        longest = (
            Place(source=self._source(row), what=f"has {lengths[row]} tokens")
            for row in find_longest(lengths, trained)
        )
        return LanguageReport(
            profile=profile,
            sha256=self._text.sha256,
            files=tuple(file.source for file in (*self._text.train, *self._text.validation)),
            findings=findings,
            lengths=limits,
            longest=tuple(longest),
            letters=self._survey.letters,
            notes=tuple(self._describe_limits()),
        )

    def _report_lengths(self, trained: Mask) -> tuple[LengthReport, ...]:
        rows = self._rows.lengths()
        ordered = np.sort(rows.length[trained])
        limits = lengths_to_count(
            longest=nearest_rank(ordered, 100),
            p99=nearest_rank(ordered, 99),
            declared=self._text.max_seq_length,
        )
        return tuple(rows.report(limit, trained=trained) for limit in limits)

    def _survey_figures(self) -> dict[str, Any]:
        survey = self._survey
        return {
            "words": survey.words,
            "mattr500": survey.mattr500,
            "script": survey.script,
            "script_share": survey.script_share,
            "code_mixing_index": survey.mean_mixing,
        }

    def _row_figures(self, trained: Mask, *, repeats: Mask, near: Mask) -> dict[str, Any]:
        rows, unique = self._rows, trained & ~repeats & ~near
        lengths, supervised = rows.numbers("length"), rows.numbers("supervised")
        ordered = np.sort(lengths[trained])
        return {
            "examples": int(trained.sum()),
            "unique_examples": int(unique.sum()),
            "tokens": int(lengths[trained].sum()),
            "unique_tokens": int(lengths[unique].sum()),
            "supervised_tokens": int(supervised[trained].sum()),
            "p50": nearest_rank(ordered, 50),
            "p95": nearest_rank(ordered, 95),
            "p99": nearest_rank(ordered, 99),
            "longest": nearest_rank(ordered, 100),
            "characters": int(rows.numbers("characters")[trained].sum()),
            "text_bytes": int(rows.numbers("text_bytes")[trained].sum()),
            "text_tokens": int(rows.numbers("text_tokens")[trained].sum()),
            "duplicates": int(repeats.sum()),
            "near_duplicates": int(near.sum()),
            "unsupervised": int((supervised[trained] == 0).sum()),
            "mojibake": int(rows.numbers("mojibake")[trained].sum()),
        }

    def _describe_limits(self) -> Iterator[str]:
        tag = self._text.dataset.tag
        if self._unmeasured:
            yield (
                f"The first {len(self._rows):,} rows of {tag} were measured; {self._unmeasured:,} more were"
                " counted alone."
            )
        if self._near.left_out:
            yield (
                f"Near duplicates were sought among the first {MOST_TEXTS:,} different rows of {tag};"
                f" {self._near.left_out:,} more were compared for equal text alone."
            )


def _at_most(count: int) -> int:
    """Return a count as a profile can tell it."""
    return min(count, MOST_COUNTED)


@dataclass(frozen=True)
class _HeldOut:
    """The held-out part."""

    rows: Mask
    """Shape: (rows,). Rows of the training files that are held out."""
    examples: int
    overlap: int
