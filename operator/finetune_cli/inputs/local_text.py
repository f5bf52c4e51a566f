"""Text on this machine, measured as the Measure pod would: files in, profile and reports out.

I/O for `plan` and `compare`. It finds the files that belong to each language and hands them with the
model's tokenizer to `finetune_text`, whose reading, chat template and tokens are those of training.
Imported only where text is measured: what it needs is an extra of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune_api.plan import PlannedColumns, PlannedDataset, PlannedValidation
from finetune_api.profile import Profile, find_context, pick_config_facts
from finetune_api.resource import Dataset, Language, LanguageFinetuneSpec
from finetune_cli.errors import CliError
from finetune_cli.inputs.model_files import LocalModel
from finetune_resolver.decisions.build import learns_answers_only, unusual_length
from finetune_text.errors import TextError
from finetune_text.files.census import FileCensus, FileRole, NamedFile, take_census
from finetune_text.files.formats import ALLOWED_FORMATS, file_format
from finetune_text.files.splits import TEST, TRAIN, VALIDATION
from finetune_text.measure import LanguageText, build_sequencer, measure_language
from finetune_text.survey.language_report import LanguageReport
from finetune_text.survey.lengths import build_profiles
from finetune_text.tokenization.tokenizer import load_fast_tokenizer, load_json
from finetune_text.tokenization.tokenizer_facts import describe_tokenizer

GENERATION_FILE = "generation_config.json"
CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One data file."""

    path: Path
    source: str
    """As the user named it."""


@dataclass(frozen=True, slots=True)
class LocalText:
    """The files at one path."""

    files: tuple[LocalFile, ...] = ()
    census: FileCensus = field(default_factory=FileCensus)
    """Every file below a folder, and what becomes of it."""
    root: str = ""
    """The folder that the names in the census are relative to."""

    def without(self, held_out: "LocalText") -> "LocalText":
        """Return the text without the files that are held out; unchanged if none would be left."""
        apart = {file.path.resolve() for file in held_out.files}
        kept = tuple(file for file in self.files if file.path.resolve() not in apart)
        if not kept:
            return self
        names = {
            file.source.removeprefix(f"{self.root}/") for file in self.files if file not in kept
        }
        return replace(self, files=kept, census=self.census.with_role(names, FileRole.VALIDATION))


@dataclass(frozen=True, slots=True)
class LocalTexts:
    """The text of every language of a resource, in the order of `spec.languages`."""

    train: tuple[LocalText, ...]
    validation: tuple[LocalText, ...]
    """Without files where a fraction is held out."""


@dataclass(frozen=True, slots=True)
class MeasuredCorpus:
    """What was measured of a resource's text with one model."""

    profile: Profile
    reports: tuple[LanguageReport, ...]


def find_texts(
    spec: LanguageFinetuneSpec, *, data: Sequence[str], validation: Sequence[str]
) -> LocalTexts:
    """Return the files that `--data` and `--validation` name: a path, or TAG=PATH for each language.

    Raises:
        CliError: a path has no data, a language has no path, or a tag is none of the resource's.
    """
    tags = [language.tag for language in spec.languages]
    train = _by_tag(data, tags=tags, option="--data", splits=(TRAIN,))
    missing = [tag for tag in tags if tag not in train]
    if missing:
        more = " ".join(f"--data {tag}=PATH" for tag in missing)
        raise CliError([f"--data names no text of {', '.join(missing)}; add {more}."])
    held_out = _by_tag(
        validation, tags=tags, option="--validation", splits=(VALIDATION, TEST, TRAIN)
    )
    for language in spec.languages:
        _refuse_unnamed_validation(language, named=language.tag in held_out)
    return LocalTexts(
        train=tuple(train[tag].without(held_out.get(tag, LocalText())) for tag in tags),
        validation=tuple(held_out.get(tag, LocalText()) for tag in tags),
    )


def _refuse_unnamed_validation(language: Language, *, named: bool) -> None:
    declared = language.dataset.validation
    if declared is None or declared.uri is None or named:
        return
    raise CliError(
        [
            (
                f"The held-out text of {language.tag} is {declared.uri}, and --validation names none; add "
                f"--validation {language.tag}=PATH with a copy of it."
            )
        ]
    )


def measure_texts(
    spec: LanguageFinetuneSpec, *, texts: LocalTexts, model: LocalModel
) -> MeasuredCorpus:
    """Return what the texts are with a model's tokenizer.

    Raises:
        CliError: the tokenizer or a file cannot be used.
    """
    if model.tokenizer is None:
        raise CliError(
            [
                "--data needs the model's tokenizer to count with; add --tokenizer FOLDER, with tokenizer.json in it."
            ]
        )
    try:
        tokenizer = load_fast_tokenizer(model.tokenizer, source=str(model.tokenizer))
        generation = load_json(model.tokenizer / GENERATION_FILE)
        sequencer = build_sequencer(
            tokenizer,
            generation=generation or load_json(model.tokenizer / CONFIG_FILE),
            completion_only=learns_answers_only(spec),
        )
        reports = tuple(
            measure_language(text, sequencer).with_census(local.census, root=local.root)
            for text, local in zip(_language_texts(spec, texts=texts), texts.train, strict=True)
        )
    except TextError as error:
        raise CliError([error.message]) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CliError(
            [f"{error.filename or 'The text'} cannot be read: {reason}; check the file."]
        ) from error
    config = pick_config_facts(model.config) if model.config else {}
    profile = Profile(
        tokenizer=describe_tokenizer(tokenizer.backend, model.tokenizer),
        model=config,
        languages=build_profiles(reports, lengths=(unusual_length(spec), find_context(config))),
    )
    return MeasuredCorpus(profile, reports)


def _language_texts(spec: LanguageFinetuneSpec, *, texts: LocalTexts) -> Iterator[LanguageText]:
    for language, train, held_out in zip(
        spec.languages, texts.train, texts.validation, strict=True
    ):
        yield LanguageText(
            dataset=_dataset(language),
            train=train.files,
            validation=held_out.files,
            max_seq_length=unusual_length(spec),
        )


def _dataset(language: Language) -> PlannedDataset:
    dataset = language.dataset
    columns = dataset.columns.model_dump() if dataset.columns else {}
    return PlannedDataset(
        tag=language.tag,
        uri=dataset.uri,
        format=dataset.format,
        columns=PlannedColumns(**columns),
        validation=_validation(dataset),
        on_bad_row=dataset.on_bad_row,
        max_row_characters=dataset.max_row_characters,
    )


def _validation(dataset: Dataset) -> PlannedValidation:
    declared = dataset.validation
    if declared is None:
        return PlannedValidation()
    fraction = {} if declared.fraction is None else {"fraction": declared.fraction}
    return PlannedValidation(uri=declared.uri, max_examples=declared.max_examples, **fraction)


# --- Files --------------------------------------------------------------------------------------


def _by_tag(
    options: Sequence[str], *, tags: Sequence[str], option: str, splits: Sequence[str]
) -> Mapping[str, LocalText]:
    found: dict[str, LocalText] = {}
    for given in options:
        tag, path = _split(given, tags=tags, option=option)
        if tag in found:
            raise CliError(
                [f"{option} names the text of {tag} twice; put its files into one folder."]
            )
        found[tag] = _find_text(Path(path), option=option, splits=splits, tag=tag)
    return found


def _split(given: str, *, tags: Sequence[str], option: str) -> tuple[str, str]:
    """Return the tag and the path of an option; a resource of one language needs no tag."""
    tag, equals, path = given.partition("=")
    if equals and tag in tags and path:
        return tag, path
    # A file may have an equals sign in its name.
    if equals and Path(path).exists() and not Path(given).exists():
        raise CliError(
            [
                (
                    f"{option} {given} names {tag or 'no language'}, expected a language of the resource: "
                    f"{', '.join(tags)}; correct the tag."
                )
            ]
        )
    if len(tags) == 1 and given:
        return tags[0], given
    raise CliError(
        [
            (
                f"{option} {given or 'is empty and'} does not say whose text it is; write {option} "
                f"TAG=PATH with one of {', '.join(tags)}."
            )
        ]
    )


def _find_text(path: Path, *, option: str, splits: Sequence[str], tag: str) -> LocalText:
    """Return the data files at a path; of a folder those that a pod would read at a URI.

    Raises:
        CliError: There is none.
    """
    if path.is_file():
        if file_format(path.name) is None:
            raise CliError([f"{option} {path} is no data file; expected {ALLOWED_FORMATS}."])
        return LocalText((LocalFile(path, str(path)),))
    if not path.is_dir():
        reported = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise CliError([f"{option} {path} {reported}; check the path."])
    listed = (file for file in path.rglob("*") if file.is_file())
    census = take_census(
        (NamedFile(str(file.relative_to(path)), file.stat().st_size) for file in listed),
        splits=splits,
        tag=tag,
    )
    if not census.read:
        raise CliError([_describe_nothing(census, path=path, option=option, tag=tag)])
    files = tuple(LocalFile(path / name, str(path / name)) for name in census.read)
    return LocalText(files, census, root=str(path))


def _describe_nothing(census: FileCensus, *, path: Path, option: str, tag: str) -> str:
    if census.languages:
        return (
            f"{option} {path} holds several languages and none is {tag} by its name: found"
            f" {', '.join(census.languages)}; name the folder or file of {tag}."
        )
    unread = "".join(f" {note}" for note in census.describe())
    return f"{option} {path} holds no data file; expected {ALLOWED_FORMATS}.{unread}"
