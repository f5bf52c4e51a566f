"""Validate: every row is read and understood before any model is loaded.

Second of the stages, after fetch and before tokenization. Faults are reported with file, line and rule,
several at once. Rows are read again when they are tokenised: in between only their hashes are kept,
so memory does not grow with the text. The held-out part is chosen by those hashes: the same data
always splits the same way, in whatever order, and equal rows stay on one side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from finetune_api.plan import PlannedDataset
from finetune_text.counting import count_of, is_or_are, verb_of
from finetune_text.rows.bad_rows import MOST_SKIPPED_PERCENT, has_too_many, is_skippable
from finetune_text.rows.column_census import ColumnCensus
from finetune_text.rows.data_errors import Fault
from finetune_text.rows.examples import Example
from finetune_text.rows.reading import read_file
from finetune_text.tokenization.held_out import decide_evaluated, decide_held_out, hash_example
from finetune_trainer.errors import DataInvalid
from finetune_trainer.inputs.data_files import DataFile, FetchedDataset
from finetune_trainer.inputs.text_errors import told_as_invalid_data

MAX_FAULTS = 5
"""Faults named in one message: enough to see a pattern, few enough for one sentence."""


@dataclass(frozen=True)
class ValidDataset:
    """One language's text, understood and split; its rows are read again each time."""

    dataset: PlannedDataset
    fetched: FetchedDataset
    train_examples: int
    """Rows to learn from, empty ones not counted."""
    validation_examples: int
    empty: int
    """Rows without anything to learn, reported and not trained."""
    duplicates: int
    """Rows whose content stands in an earlier row."""
    warnings: tuple[str, ...]
    held_out: frozenset[bytes]
    """Hashes of the rows that are evaluated, of the training files or of files of their own."""

    def read_train(self) -> Iterator[Example]:
        """Yield the rows to train on, in the order of files and lines."""
        for example in _read_examples(self.dataset, self.fetched.train):
            if self.fetched.validation or hash_example(example) not in self.held_out:
                yield example

    def read_validation(self) -> Iterator[Example]:
        """Yield the held-out rows."""
        for example in _read_examples(self.dataset, self.fetched.validation or self.fetched.train):
            if hash_example(example) in self.held_out:
                yield example


@dataclass
class _Survey:
    """What one pass over files found."""

    hashes: list[bytes]
    columns: ColumnCensus
    empty: int = 0
    first_empty: str = ""
    skipped: list[tuple[DataFile, Fault]] = field(default_factory=list)
    """The first rows that break a rule and are left out."""
    skipped_rows: int = 0


def validate_dataset(dataset: PlannedDataset, fetched: FetchedDataset) -> ValidDataset:
    """Read every row once and decide which are held out.

    Raises:
        DataInvalid: A row breaks a rule, or there is too little to learn from.
    """
    train = _survey(dataset, fetched.train)
    distinct = set(train.hashes)
    duplicates = len(train.hashes) - len(distinct)
    least = 1 if fetched.validation else 2
    _check_size(dataset, distinct=len(distinct), rows=len(train.hashes), least=least)
    warnings = [
        *fetched.census.describe(),
        *_describe_survey(dataset, train, duplicates=duplicates),
    ]
    if fetched.validation:
        own = _survey(dataset, fetched.validation).hashes
        held_out = decide_evaluated(own, max_examples=dataset.validation.max_examples)
        evaluated = [each for each in own if each in held_out]
        warnings += _describe_held_out(dataset, evaluated, rows=len(own), trained=distinct)
    else:
        held_out = decide_held_out(
            train.hashes,
            fraction=dataset.validation.fraction,
            max_examples=dataset.validation.max_examples,
        )
        evaluated = [each for each in train.hashes if each in held_out]
    return ValidDataset(
        dataset=dataset,
        fetched=fetched,
        train_examples=len(train.hashes) - (0 if fetched.validation else len(evaluated)),
        validation_examples=len(evaluated),
        empty=train.empty,
        duplicates=duplicates,
        warnings=tuple(warnings),
        held_out=held_out,
    )


# --- One pass -----------------------------------------------------------------------------------


def _survey(dataset: PlannedDataset, files: Sequence[DataFile]) -> _Survey:
    survey = _Survey(hashes=[], columns=ColumnCensus(dataset.tag))

    def note_empty(example: Example) -> None:
        survey.empty += 1
        survey.first_empty = survey.first_empty or example.source

    def note_skipped(file: DataFile, fault: Fault) -> None:
        survey.skipped_rows += 1
        if len(survey.skipped) < MAX_FAULTS:
            survey.skipped.append((file, fault))

    examples = _read_examples(
        dataset, files, on_empty=note_empty, on_skipped=note_skipped, columns=survey.columns
    )
    survey.hashes += [hash_example(example) for example in examples]
    rows = len(survey.hashes) + survey.empty + survey.skipped_rows
    if has_too_many(survey.skipped_rows, rows=rows):
        raise _build_too_many(survey, rows=rows)
    if not survey.hashes:
        raise _build_nothing_to_learn(dataset, survey)
    return survey


def _read_examples(
    dataset: PlannedDataset,
    files: Sequence[DataFile],
    *,
    on_empty: Callable[[Example], None] = lambda _: None,
    on_skipped: Callable[[DataFile, Fault], None] = lambda _file, _fault: None,
    columns: ColumnCensus | None = None,
) -> Iterator[Example]:
    """Yield what can be learned; faults are collected over all files and raised together."""
    faults: list[tuple[DataFile, Fault]] = []
    for file, found in _read_files(dataset, files, columns=columns):
        if isinstance(found, Fault) and is_skippable(dataset, found):
            on_skipped(file, found)
        elif isinstance(found, Fault):
            faults.append((file, found))
            if len(faults) == MAX_FAULTS:
                raise _build_fault(faults)
        elif found.is_empty:
            on_empty(found)
        else:
            yield found
    if faults:
        raise _build_fault(faults)


def _read_files(
    dataset: PlannedDataset, files: Sequence[DataFile], *, columns: ColumnCensus | None
) -> Iterator[tuple[DataFile, Example | Fault]]:
    with told_as_invalid_data():
        for file in files:
            for found in read_file(dataset, file, columns=columns):
                yield file, found


# --- Warnings --------------------------------------------------------------------------------


def _build_fault(faults: Sequence[tuple[DataFile, Fault]]) -> DataInvalid:
    """Return one sentence about the first fault that counts the others."""
    file, first = faults[0]
    where = f"{file.source} line {first.line}" if first.line else file.source
    others = [
        f"line {fault.line}" if other == file else f"{other.source} line {fault.line}"
        for other, fault in faults[1:]
    ]
    more = ""
    if others:
        at_least = "at least " if len(faults) == MAX_FAULTS else ""
        more = f" (and {at_least}{len(others)} more: {', '.join(others)})"
    return DataInvalid(
        f"{where} {first.problem}; {first.rule} and apply again{more}.", reason="MalformedRow"
    )


def _build_too_many(survey: _Survey, *, rows: int) -> DataInvalid:
    """Return that `Skip` would leave out more rows than it may."""
    file, first = survey.skipped[0]
    return DataInvalid(
        f"{count_of(survey.skipped_rows, 'row')} of {rows:,} {verb_of(survey.skipped_rows, 'break')} a"
        f" rule, and dataset.onBadRow: Skip leaves out at most {MOST_SKIPPED_PERCENT} %; the first:"
        f" {file.source} line {first.line} {first.problem}; {first.rule} and apply again.",
        reason="TooManyBadRows",
    )


def _build_nothing_to_learn(dataset: PlannedDataset, survey: _Survey) -> DataInvalid:
    if survey.empty:
        return DataInvalid(
            f"The dataset of {dataset.tag} at {dataset.uri} has only empty answers or texts"
            f" ({survey.empty} rows, the first at {survey.first_empty}): expected rows with something"
            " to learn; fill them and apply again.",
            reason="NothingToLearn",
        )
    return DataInvalid(
        f"The dataset of {dataset.tag} at {dataset.uri} has no rows: expected at least 2; add text"
        " and apply again.",
        reason="DatasetEmpty",
    )


def _check_size(dataset: PlannedDataset, *, distinct: int, rows: int, least: int) -> None:
    if distinct < least:
        raise DataInvalid(
            f"The dataset of {dataset.tag} at {dataset.uri} has {rows} rows with {distinct} different"
            f" content: expected at least {least}, one to train on and one to hold out; add rows or"
            " set dataset.validation.uri, and apply again.",
            reason="TooFewExamples",
        )


def _describe_survey(dataset: PlannedDataset, survey: _Survey, *, duplicates: int) -> Iterator[str]:
    if survey.skipped_rows:
        file, first = survey.skipped[0]
        yield (
            f"{count_of(survey.skipped_rows, 'row')} of {dataset.tag}"
            f" {verb_of(survey.skipped_rows, 'break')} a rule and {is_or_are(survey.skipped_rows)} left"
            f" out; the first is {file.source} line {first.line}, which {first.problem}."
        )
    yield from survey.columns.describe()
    if survey.empty:
        yield (
            f"{survey.empty} rows of {dataset.tag} have nothing to learn and are not trained on; the"
            f" first is {survey.first_empty}."
        )
    if duplicates:
        yield f"{duplicates} of {len(survey.hashes)} rows of {dataset.tag} repeat an earlier row."


def _describe_held_out(
    dataset: PlannedDataset, evaluated: Sequence[bytes], *, rows: int, trained: set[bytes]
) -> Iterator[str]:
    if len(evaluated) < rows:
        yield (
            f"{len(evaluated)} of {rows} held-out rows of {dataset.tag} are evaluated, as"
            " dataset.validation.maxExamples says."
        )
    seen = sum(1 for each in evaluated if each in trained)
    if seen:
        yield (
            f"{seen} of {len(evaluated)} held-out rows of {dataset.tag} are trained on too: the"
            " held-out loss looks better than it is."
        )
