"""What the resource can already say and this version cannot do yet: refused, never ignored.

Rows of the table that `validation` checks and `crd` writes. Building a feature deletes its
row here; nothing else refers to one.
"""

from collections.abc import Callable
from typing import Any, Final

from finetune_api.resource import (
    LanguageFinetuneSpec,
    Method,
    Optimizer,
    OutputFormat,
    TrainingStage,
)
from finetune_api.validation_rule import ValidationRule


def _not_yet(
    path: str, *, cel: str, what: str, remedy: str, check: Callable[[Any], bool]
) -> ValidationRule:
    """Return a rule whose message tells `what` is not supported yet and the `remedy`."""
    return ValidationRule(
        path=path, cel=cel, message=f"not supported yet: {what}; {remedy}", check=check
    )


def _never(_: object) -> bool:
    """Refuse a field whenever it is set."""
    return False


def _fits_cpu(spec: LanguageFinetuneSpec) -> bool:
    optimizer = spec.parameters.optimizer if spec.parameters else None
    return spec.resources.gpus > 0 or optimizer is not Optimizer.ADAMW_8BIT


_HTTPS: Final = {
    "cel": "!self.startsWith('https://')",
    "what": "datasets at https:// addresses",
    "remedy": "put the file into a bucket or a claim and write s3:// or pvc://",
}

NOT_SUPPORTED_YET: Final = (
    _not_yet(
        "spec.stage",
        cel="self != 'ContinuedPretraining'",
        what="stage ContinuedPretraining",
        remedy="leave stage out or set Instruction; plain text is trained there too, format Text",
        check=lambda stage: stage is not TrainingStage.CONTINUED_PRETRAINING,
    ),
    _not_yet(
        "spec.method",
        cel="self != 'Full'",
        what="method Full",
        remedy="leave method out or set LoRA or QLoRA",
        check=lambda method: method is not Method.FULL,
    ),
    _not_yet(
        "spec.parameters.packing",
        cel="!self",
        what="packing true",
        remedy="leave packing out",
        check=lambda packing: not packing,
    ),
    _not_yet(
        "spec.parameters.flashAttention",
        cel="self",
        what="flashAttention false",
        remedy="leave flashAttention out; the trainer takes the fastest attention that the GPU has",
        check=lambda flash_attention: flash_attention is not False,
    ),
    _not_yet(
        "spec.parameters.lora.trainEmbeddings",
        cel="!self",
        what="trainEmbeddings true",
        remedy="leave trainEmbeddings out",
        check=lambda embeddings: not embeddings,
    ),
    _not_yet(
        "spec.parameters.embeddingLearningRate",
        cel="false",
        what="embeddingLearningRate",
        remedy="leave it out; learningRate is the rate of all that is trained",
        check=_never,
    ),
    _not_yet(
        "spec.languages",
        cel="self.size() == 1",
        what="two or more languages in one resource",
        remedy="create one LanguageFinetune for each language",
        check=lambda languages: len(languages) == 1,
    ),
    _not_yet(
        "spec.multilingual",
        cel="false",
        what="multilingual",
        remedy="create one LanguageFinetune for each language",
        check=_never,
    ),
    _not_yet(
        "spec.languages[].dataset.uri",
        **_HTTPS,
        check=lambda uri: not uri.startswith("https://"),
    ),
    _not_yet(
        "spec.languages[].dataset.validation.uri",
        **_HTTPS,
        check=lambda uri: not uri.startswith("https://"),
    ),
    _not_yet(
        "spec.resources.nodes",
        cel="self == 1",
        what="more than one node",
        remedy="leave nodes out or set 1",
        check=lambda nodes: nodes == 1,
    ),
    _not_yet(
        "spec",
        cel=(
            "self.?resources.?gpus.orValue(1) > 0 || "
            "self.?parameters.?optimizer.orValue('AdamW') != 'AdamW8bit'"
        ),
        what="parameters.optimizer AdamW8bit with resources.gpus 0",
        remedy="set optimizer to AdamW, or resources.gpus to 1",
        check=_fits_cpu,
    ),
    _not_yet(
        "spec.output.formats",
        cel="self.all(format, format == 'Adapter')",
        what="formats other than Adapter",
        remedy="leave formats out; the published adapter can be merged or converted later",
        check=lambda formats: all(one is OutputFormat.ADAPTER for one in formats),
    ),
    _not_yet(
        "spec.output.hub",
        cel="false",
        what="publishing to the Hugging Face Hub",
        remedy="leave hub out; the adapter in S3 can be uploaded from there",
        check=_never,
    ),
)
