"""Everything the published folder tells about a run: made by the pipeline, read by export and publish.

Plain values; nothing here reads a model, a file or a clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.outcome import CorpusLanguage, Evaluation, RunSummary
from finetune_api.plan import TrainingPlan
from finetune_trainer.steps.step_report import StepReport


@dataclass(frozen=True)
class DatasetIdentity:
    """The text of one language, as it was read."""

    tag: str
    uri: str
    revision: str = ""
    """Commit of a hub dataset; empty elsewhere."""
    sha256: str = ""
    """Hash over the contents of all its files."""


CONTENT_HASH_DIGITS = 64
"""Of a SHA-256 over the model's files; a commit of a hub has 40."""


@dataclass(frozen=True)
class RunRecord:
    """What was asked, what it was made from, and what came out."""

    plan: TrainingPlan
    base_name: str
    """The base model's public id: `org/name` of a hub, else its URI; never a local path."""
    model_revision: str
    """Commit of a hub model, else a hash of its content; recorded as resolved."""
    datasets: tuple[DatasetIdentity, ...]
    corpus: tuple[CorpusLanguage, ...]
    warnings: tuple[str, ...]
    evaluation: Evaluation | None
    """None where nothing was held out."""
    summary: RunSummary
    history: tuple[StepReport, ...]
    environment: Mapping[str, object]

    @property
    def base_revision(self) -> str | None:
        """The hub's commit; a copy of the model elsewhere has none that a loader could use."""
        is_content_hash = len(self.model_revision) == CONTENT_HASH_DIGITS
        return self.model_revision if self.is_hub_model and not is_content_hash else None

    @property
    def is_hub_model(self) -> bool:
        """Whether the base model can be loaded by its id."""
        return "://" not in self.base_name
