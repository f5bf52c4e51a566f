"""What was found in one language's text, whole: the profile, and every defect with its line.

Written by `measure`, kept in profile.json and in the cache, shown by the CLI. Values only.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_api.profile import MOST_FIRST_PLACES, PLACE_CHARACTERS, LanguageProfile, merge_notes
from finetune_text.counting import describe_bytes
from finetune_text.files.census import FileCensus, explain_role

REPORT_SCHEMA = 3
MOST_PLACES = 200
"""Places of one kind that are named: a person mends no more by hand, and a report stays readable."""
MOST_PLACE_CHARACTERS = 2_048
"""Of what is said of a place: a key of an S3 object has up to 1,024."""
MOST_LONGEST = 10
MOST_KIND_CHARACTERS = 24
"""Of the name of a kind and the space after it."""


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )


class FindingKind(StrEnum):
    """Kinds of defects."""

    INVALID_ROW = "InvalidRow"
    """Breaks a rule: training refuses the file."""
    TEMPLATE_REFUSED = "TemplateRefused"
    """The model's chat template does not take the chat: training refuses the file."""
    EMPTY_ROW = "EmptyRow"
    """Nothing to learn; reported and not trained."""
    UNSUPERVISED = "Unsupervised"
    """No token to learn, though there is text."""
    TEMPLATE_LEAVES_OUT = "TemplateLeavesOut"
    """A part that the chat template does not show to the model."""
    CONTROL_IN_TEXT = "ControlTokenInText"
    """The row's own text holds a control token, which the model reads as structure."""
    MOJIBAKE = "Mojibake"
    """Decoded with the wrong encoding, or characters were lost."""
    EXACT_DUPLICATE = "ExactDuplicate"
    """The folded text stands in an earlier row (F8)."""
    NEAR_DUPLICATE = "NearDuplicate"
    """Nearly an earlier row (F9)."""
    OTHER_SCRIPT = "OtherScript"
    """Most letters are not of the tag's script (F11)."""
    OVERLAP = "Overlap"
    """A held-out row whose text is trained on too."""
    UNREAD_FILE = "UnreadFile"
    """A file below the URI that is not read: a test file, another language, another form."""
    UNREAD_COLUMN = "UnreadColumn"
    """A column with values that is not read."""
    SKIPPED_ROW = "SkippedRow"
    """Breaks a rule and is left out, as dataset.onBadRow says."""


BREAKING = (FindingKind.INVALID_ROW, FindingKind.TEMPLATE_REFUSED)
"""Kinds with which training refuses a file."""


_ORDER = {kind: number for number, kind in enumerate(FindingKind)}


class Place(_Part):
    """Where a defect is."""

    source: str
    """`<uri> line <n>`."""
    what: str
    """What is wrong there; continues the source as a sentence."""

    def moved(self, names: Mapping[str, str]) -> "Place":
        """Return the place in files of other names."""
        return Place(source=_rename(self.source, names), what=_rename(self.what, names))


class Finding(_Part):
    """All defects of one kind."""

    kind: FindingKind
    count: int
    places: tuple[Place, ...]
    """The first `MOST_PLACES` of them, in the order of files and lines."""

    def moved(self, names: Mapping[str, str]) -> "Finding":
        """Return the finding with its places in files of other names."""
        return self.model_copy(
            update={"places": tuple(place.moved(names) for place in self.places)}
        )


class LengthReport(_Part):
    """What one length would cut."""

    length: int
    """Tokens."""
    truncated: int
    """Examples that are longer."""
    lost_tokens: int
    """Tokens beyond it, of all examples together (F12)."""
    unlearnable: int
    """Examples without a token to learn within it."""
    kept_tokens: int | None = None
    """Tokens within it, of the examples that can be learned from; None in a report of an older release."""
    kept_supervised: int | None = None
    """Of them, the tokens that carry loss; None where there were too many runs of them to remember."""


class LanguageReport(_Part):
    """One language's text."""

    schema_version: int = REPORT_SCHEMA
    profile: LanguageProfile
    sha256: str = ""
    """Over names and contents of all files."""
    files: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    lengths: tuple[LengthReport, ...] = ()
    longest: tuple[Place, ...] = ()
    """The longest examples, longest first."""
    letters: dict[str, int] = Field(default_factory=dict)
    """Letters by script (ISO 15924), commonest first."""
    notes: tuple[str, ...] = ()
    """What was not measured, and why."""

    def with_files(self, files: Sequence[str]) -> "LanguageReport":
        """Return the report with its places in files of other names, in the same order.

        The same content under another URI has the same report, but for where it stands.
        """
        names = dict(zip(self.files, files, strict=False))
        findings = tuple(finding.moved(names) for finding in self.findings)
        profile = self.profile.model_copy(update={"first_places": first_places(findings)})
        return self.model_copy(
            update={
                "files": tuple(files),
                "profile": profile,
                "findings": findings,
                "longest": tuple(place.moved(names) for place in self.longest),
            }
        )

    def with_census(self, census: FileCensus, *, root: str) -> "LanguageReport":
        """Return the report with the files that are not read, in findings and profile.

        The census is no part of a cached report: equal content can be read out of different folders.

        Args:
            census: The files below the dataset's URI.
            root: URI that the names in the census are relative to.
        """
        if not census.unread:
            return self
        notebook = Notebook()
        for file, role in census.unread:
            source = f"{root.rstrip('/')}/{file.name}" if root else file.name
            size = describe_bytes(file.size)
            notebook.note(FindingKind.UNREAD_FILE, source, f"({size}) is {explain_role(role)}")
        notes = merge_notes(census.describe(), self.profile.notes)
        findings = sorted((*self.findings, *notebook.close()), key=lambda one: _ORDER[one.kind])
        return self.model_copy(
            update={
                "findings": tuple(findings),
                "profile": self.profile.model_copy(
                    update={"notes": notes, "first_places": first_places(findings)}
                ),
            }
        )

    def count(self, kind: FindingKind) -> int:
        """Return how many defects of a kind there are."""
        return next((finding.count for finding in self.findings if finding.kind is kind), 0)

    def places(self, kind: FindingKind) -> tuple[Place, ...]:
        """Return where the first defects of a kind are."""
        return next((finding.places for finding in self.findings if finding.kind is kind), ())


class Notebook:
    """Collects defects while rows go by."""

    def __init__(self) -> None:
        self._found: dict[FindingKind, tuple[int, list[Place]]] = {}

    def note(self, kind: FindingKind, source: str, what: str, *, rows: int = 1) -> None:
        """Write down one defect, or the first of several that one place stands for."""
        count, places = self._found.get(kind, (0, []))
        if len(places) < MOST_PLACES:
            places.append(Place(source=_printable(source), what=_printable(what)))
        self._found[kind] = (count + rows, places)

    def count(self, kind: FindingKind) -> int:
        """Return how many defects of a kind were noted."""
        return self._found.get(kind, (0, []))[0]

    def move(self, kind: FindingKind, *, to: FindingKind) -> None:
        """Count the defects of one kind as those of another."""
        count, places = self._found.pop(kind)
        earlier, named = self._found.get(to, (0, []))
        self._found[to] = (earlier + count, [*named, *places][:MOST_PLACES])

    def close(self) -> tuple[Finding, ...]:
        """Return what was found, in the order of `FindingKind`."""
        return tuple(_build_findings(self._found))


def first_places(findings: Sequence[Finding]) -> tuple[str, ...] | None:
    """Return where the first finding of each kind is, as a profile keeps it; None if there is none.

    Of a URI the file's name is kept: what is before it is in the resource.
    """
    places = (
        f"{finding.kind.value} {_short_source(finding.places[0].source)}"
        for finding in findings
        if finding.places
    )
    return tuple(places)[:MOST_FIRST_PLACES] or None


def _short_source(source: str) -> str:
    name = source.rpartition("/")[2]
    most = PLACE_CHARACTERS - MOST_KIND_CHARACTERS
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _printable(text: str) -> str:
    # Names of files and columns may hold half a character, which no JSON does.
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return shown if len(shown) <= MOST_PLACE_CHARACTERS else f"{shown[:MOST_PLACE_CHARACTERS]}…"


def _rename(text: str, names: Mapping[str, str]) -> str:
    """Return the text with each file under its new name, all at once: a new one may be another's old."""
    if not names:
        return text
    longest_first = sorted(names, key=len, reverse=True)
    found = "|".join(re.escape(name) for name in longest_first)
    return re.sub(rf"(?<!\S)({found})(?= line )", lambda match: names[match[1]], text)


def _build_findings(
    found: dict[FindingKind, tuple[int, list[Place]]],
) -> Iterable[Finding]:
    for kind in FindingKind:
        if kind in found:
            count, places = found[kind]
            yield Finding(kind=kind, count=count, places=tuple(places))
