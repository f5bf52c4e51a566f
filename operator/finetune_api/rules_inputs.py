"""Rules on what is trained: addresses, model, data and languages.

Rows of the table that `validation` checks and `crd` writes. A row is never tightened for objects
that exist: the API server lets an unchanged field stay as it was admitted.
"""

import re
from typing import Final

from finetune_api.resource import (
    Columns,
    DatasetFormat,
    LanguageFinetuneSpec,
    MergeCombination,
    MultilingualStrategy,
)
from finetune_api.validation_rule import ValidationRule

# --- Addresses ----------------------------------------------------------------------------------
# Neither `@` nor `?` is part of an address: `key:secret@host` and signed queries would put
# credentials into the resource, where everybody who may read it reads them.

_S3: Final = "s3://[A-Za-z0-9][A-Za-z0-9._-]*(/[^@?#]*)?"
_PVC: Final = "pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^@?#]*)?"
_HF_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+"
_HTTPS: Final = "https://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/[^@?#]+"

MODEL_ADDRESS: Final = f"^(hf://{_HF_NAME}|{_S3}|{_PVC})$"
DATASET_ADDRESS: Final = f"^(hf://datasets/{_HF_NAME}|{_S3}|{_PVC}|{_HTTPS})$"
OUTPUT_ADDRESS: Final = f"^{_S3}$"
CLIMBING: Final = "(^|/)[.][.](/|$)"
"""A `..` segment, which would leave the claim or the prefix."""


def _address(path: str, *, pattern: str, message: str) -> ValidationRule:
    """Return the rule that the text at `path` is an address that `pattern` allows."""
    return ValidationRule(
        path=path,
        cel=f"self.matches('{pattern}') && !self.matches('{CLIMBING}')",
        message=message,
        check=lambda uri: bool(re.fullmatch(pattern, uri)) and not re.search(CLIMBING, uri),
    )


_DATASET_MESSAGE: Final = (
    "is no address of a dataset; write s3://bucket/prefix-or-file, hf://datasets/org/name, "
    "pvc://claim/path or https://host/file, without credentials, query or '..'"
)

ADDRESSES: Final = (
    _address(
        "spec.model.uri",
        pattern=MODEL_ADDRESS,
        message=(
            "is no address of a model; write hf://org/name, s3://bucket/prefix or "
            "pvc://claim/path, without credentials, query or '..'; a commit or tag goes to revision"
        ),
    ),
    _address("spec.languages[].dataset.uri", pattern=DATASET_ADDRESS, message=_DATASET_MESSAGE),
    _address(
        "spec.languages[].dataset.validation.uri",
        pattern=DATASET_ADDRESS,
        message=_DATASET_MESSAGE,
    ),
    _address(
        "spec.output.uri",
        pattern=OUTPUT_ADDRESS,
        message=(
            "is no address to publish to; write s3://bucket/prefix, without credentials, query "
            "or '..'"
        ),
    ),
)


# --- Model and data -----------------------------------------------------------------------------


def _only_columns(columns: Columns | None, *allowed: str) -> bool:
    named = columns.model_dump(exclude_none=True) if columns else {}
    return named.keys() <= set(allowed)


def _tags_differ(spec: LanguageFinetuneSpec) -> bool:
    tags = [language.tag.lower() for language in spec.languages]
    return len(tags) == len(set(tags))


MODEL_AND_DATA: Final = (
    ValidationRule(
        path="spec.model",
        cel="!has(self.revision) || self.uri.startsWith('hf://')",
        message=(
            "revision is set and uri is no hf:// address; only the Hub has revisions: leave "
            "revision out, or put the version into the path"
        ),
        check=lambda model: model.revision is None or model.uri.startswith("hf://"),
    ),
    ValidationRule(
        path="spec",
        cel=(
            "self.languages.all(one, self.languages.exists_one(other, "
            "one.tag.lowerAscii() == other.tag.lowerAscii()))"
        ),
        message=(
            "languages has one tag twice; put the texts of a language under one prefix and name "
            "the tag once"
        ),
        check=_tags_differ,
    ),
    ValidationRule(
        path="spec.languages[].dataset",
        cel="has(self.sha256) == self.uri.startsWith('https://')",
        message=(
            "sha256 belongs to https:// addresses: required there, so that what is trained on is "
            "what you looked at, and without meaning elsewhere; add it or leave it out"
        ),
        check=lambda dataset: (dataset.sha256 is not None) == dataset.uri.startswith("https://"),
    ),
    ValidationRule(
        path="spec.languages[].dataset",
        cel="self.?split.orValue('train') == 'train' || self.uri.startsWith('hf://')",
        message=(
            "split is set and uri is no hf:// address; only the Hub has splits: leave split out, "
            "or name the prefix of the part you mean"
        ),
        check=lambda dataset: dataset.split == "train" or dataset.uri.startswith("hf://"),
    ),
    ValidationRule(
        path="spec.languages[].dataset",
        cel=(
            "self.?format.orValue('Auto') != 'Chat' || !has(self.columns) || "
            "(!has(self.columns.prompt) && !has(self.columns.completion) && "
            "!has(self.columns.text))"
        ),
        message=(
            "format Chat reads columns.messages alone; leave columns.prompt, columns.completion "
            "and columns.text out, or set another format"
        ),
        check=lambda dataset: (
            dataset.format is not DatasetFormat.CHAT or _only_columns(dataset.columns, "messages")
        ),
    ),
    ValidationRule(
        path="spec.languages[].dataset",
        cel=(
            "!(self.?format.orValue('Auto') in ['Instruction', 'PromptCompletion']) || "
            "!has(self.columns) || (!has(self.columns.messages) && !has(self.columns.text))"
        ),
        message=(
            "formats Instruction and PromptCompletion read columns.prompt and columns.completion; "
            "leave columns.messages and columns.text out, or set another format"
        ),
        check=lambda dataset: (
            dataset.format not in (DatasetFormat.INSTRUCTION, DatasetFormat.PROMPT_COMPLETION)
            or _only_columns(dataset.columns, "prompt", "completion")
        ),
    ),
    ValidationRule(
        path="spec.languages[].dataset",
        cel=(
            "self.?format.orValue('Auto') != 'Text' || !has(self.columns) || "
            "(!has(self.columns.messages) && !has(self.columns.prompt) && "
            "!has(self.columns.completion))"
        ),
        message=(
            "format Text reads columns.text alone; leave columns.messages, columns.prompt and "
            "columns.completion out, or set another format"
        ),
        check=lambda dataset: (
            dataset.format is not DatasetFormat.TEXT or _only_columns(dataset.columns, "text")
        ),
    ),
    ValidationRule(
        path="spec.languages[].dataset.validation",
        cel="!has(self.uri) || !has(self.fraction)",
        message=(
            "uri and fraction are both set; name a dataset of its own, or split a fraction off, "
            "and leave the other out"
        ),
        check=lambda validation: validation.uri is None or validation.fraction is None,
    ),
)


# --- Several languages --------------------------------------------------------------------------

_TIES: Final = (MergeCombination.TIES_SVD, MergeCombination.DARE_TIES_SVD)

MULTILINGUAL: Final = (
    ValidationRule(
        path="spec",
        cel="!has(self.multilingual) || self.languages.size() > 1",
        message=(
            "multilingual is set and languages has one entry; add the other languages, or leave "
            "multilingual out"
        ),
        check=lambda spec: spec.multilingual is None or len(spec.languages) > 1,
    ),
    ValidationRule(
        path="spec.multilingual",
        cel="!has(self.merge) || self.?strategy.orValue('Mixture') == 'Merge'",
        message="merge is read with strategy Merge alone; set it, or leave merge out",
        check=lambda several: (
            several.merge is None or several.strategy is MultilingualStrategy.MERGE
        ),
    ),
    ValidationRule(
        path="spec.multilingual.merge",
        cel="!has(self.rank) || self.?combination.orValue('Cat') != 'Cat'",
        message=(
            "rank is set and combination is Cat, whose rank is the sum of the parts; leave rank "
            "out, or set combination to Svd, TiesSvd or DareTiesSvd"
        ),
        check=lambda merge: merge.rank is None or merge.combination is not MergeCombination.CAT,
    ),
    ValidationRule(
        path="spec.multilingual.merge",
        cel=(
            "!has(self.density) || self.?combination.orValue('Cat') in ['TiesSvd', 'DareTiesSvd']"
        ),
        message=(
            "density is read with combination TiesSvd and DareTiesSvd alone; set one of them, or "
            "leave density out"
        ),
        check=lambda merge: merge.density is None or merge.combination in _TIES,
    ),
    ValidationRule(
        path="spec",
        cel=(
            "self.?multilingual.?strategy.orValue('Mixture') != 'Merge' || "
            "!self.?parameters.?lora.?useRslora.orValue(false)"
        ),
        message=(
            "parameters.lora.useRslora and multilingual.strategy Merge exclude each other: "
            "adapters are merged by alpha/r; leave useRslora out, or use strategy Mixture"
        ),
        check=lambda spec: (
            spec.multilingual is None
            or spec.multilingual.strategy is not MultilingualStrategy.MERGE
            or not (spec.parameters and spec.parameters.lora and spec.parameters.lora.use_rslora)
        ),
    ),
)

INPUT_RULES: Final = (*ADDRESSES, *MODEL_AND_DATA, *MULTILINGUAL)
