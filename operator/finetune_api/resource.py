"""The LanguageFinetune resource as the user writes it.

Source of truth of the CustomResourceDefinition (`crd`), of `kubectl explain` (the text under each
field) and of the CLI's offline check. Its words stand in `choices`, its overrides in `parameters` and
its base in `part`; all of their names can be imported from here. Cross-field rules stand in
`validation`; this module holds shapes and bounds only. An unset trait means "Auto".
"""

from typing import Any, Final, Literal, Self

from pydantic import Field

from finetune_api.enums import (
    BadRowPolicy,
    Bias,
    Corpus,
    DatasetFormat,
    DeadlinePolicy,
    Documents,
    EvalStrategy,
    GpuMemoryClass,
    LrScheduler,
    MergeCombination,
    Method,
    Mode,
    ModelDepth,
    Morphology,
    MultilingualStrategy,
    Optimizer,
    OutputFormat,
    Policy,
    ResourceLevel,
    SaveStrategy,
    SyntaxDistance,
    TokenDensity,
    TrainingStage,
    UpdatePolicy,
)
from finetune_api.parameters import LoraParameters, Parameters
from finetune_api.spec_part import DnsName, Part, Quantity, StringMap, Uri
from finetune_api.strict import Lenient

__all__ = [
    "BadRowPolicy",
    "Bias",
    "Checkpoints",
    "Columns",
    "ComputeResources",
    "Corpus",
    "Dataset",
    "DatasetFormat",
    "DeadlinePolicy",
    "DnsName",
    "Documents",
    "EvalStrategy",
    "GpuMemoryClass",
    "Hub",
    "Language",
    "LanguageFinetune",
    "LanguageFinetuneSpec",
    "LoraParameters",
    "LrScheduler",
    "Merge",
    "MergeCombination",
    "Method",
    "Mode",
    "Model",
    "ModelDepth",
    "Morphology",
    "Multilingual",
    "MultilingualStrategy",
    "ObjectMeta",
    "Optimizer",
    "Output",
    "OutputFormat",
    "Parameters",
    "Part",
    "Policy",
    "Quantity",
    "ResourceLevel",
    "Resources",
    "SaveStrategy",
    "Scheduling",
    "SecretRef",
    "StringMap",
    "SyntaxDistance",
    "TokenDensity",
    "Toleration",
    "TrainingStage",
    "Traits",
    "UpdatePolicy",
    "Uri",
    "Validation",
]


DEFAULT_ROW_CHARACTERS: Final = 2_000_000
"""As many as a long novel. While it is tokenised a character takes 190 to 350 bytes, and 940 in Amharic under
Llama 3.1's tokenizer, which writes it byte by byte (`tests.bench.measure_memory`): then 1.9 GB."""
MOST_ROW_CHARACTERS: Final = 20_000_000
"""A line of 64 MiB holds no more if each character is written as an escape of JSON or in three bytes."""


class SecretRef(Part):
    """A Secret of the resource's own namespace. It is read by the pod, never by the operator."""

    name: DnsName
    """Name of the Secret."""


class Model(Part):
    """The base model."""

    uri: Uri
    """Where the model is: hf://org/name, s3://bucket/prefix or pvc://claim/path."""
    revision: str | None = Field(default=None, min_length=1, max_length=128)
    """Commit or tag; only with hf://. The commit it resolved to is recorded."""
    secret_ref: SecretRef | None = None
    """Secret with HF_TOKEN and/or AWS_* keys."""
    trust_remote_code: bool = False
    """Run Python that the model repository ships. Only where the operator's settings allow it."""
    depth: ModelDepth | None = None
    """Deep from 40 hidden layers on; unset is Standard."""


class Traits(Part):
    """What decides the parameters. Every one is optional; unset means: catalogue, then measurement."""

    morphology: Morphology | None = None
    """How much a word carries: Simple (English, Spanish) or Complex (Hindi, Arabic, Finnish)."""
    token_density: TokenDensity | None = None
    """Characters in a token of the base model's tokenizer: Light is two or more, Dense fewer."""
    corpus: Corpus | None = None
    """How much text this job has: Small, Medium or Large."""
    resource_level: ResourceLevel | None = None
    """How much text the language has in the world: Low (Swahili, Uzbek) or High (English, Chinese)."""
    documents: Documents | None = None
    """Length of this corpus' documents: Short or Long."""
    syntax_distance: SyntaxDistance | None = None
    """Distance of the language's word order from the base model's main language: Near or Far."""
    code_switching: bool | None = None
    """Whether texts mix two languages, as Hindi-English does."""


class Columns(Part):
    """Names of the columns to read, where they are not the usual ones."""

    messages: str | None = Field(default=None, min_length=1, max_length=128)
    """Column with a list of {role, content} messages."""
    prompt: str | None = Field(default=None, min_length=1, max_length=128)
    """Column with the prompt or instruction."""
    completion: str | None = Field(default=None, min_length=1, max_length=128)
    """Column with the answer."""
    text: str | None = Field(default=None, min_length=1, max_length=128)
    """Column with plain text."""


class Validation(Part):
    """The held-out part: its own dataset, or a fraction split off."""

    uri: Uri | None = None
    """A dataset of its own. Instead of fraction."""
    fraction: float | None = Field(default=None, gt=0, le=0.5)
    """Share of the examples held out, chosen by hash and so stable. Instead of uri."""
    max_examples: int = Field(default=2000, ge=1, le=100_000)
    """Most examples evaluated on. It caps a dataset of its own (uri) too: the same ones are chosen by hash,
    and the rest is not used."""


class Dataset(Part):
    """The text of one language."""

    uri: Uri
    """Where the text is: s3://bucket/prefix-or-file, hf://datasets/org/name or pvc://claim/path."""
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", min_length=64, max_length=64
    )
    """Checksum of the file; required with https://."""
    format: DatasetFormat = DatasetFormat.AUTO
    """How a row is read: Chat, Instruction, PromptCompletion, Text, or Auto, which looks at the columns.
    Files are jsonl, json, csv, parquet or txt, also with .gz or .zst."""
    columns: Columns | None = None
    """Names of the columns, where they are not the usual ones."""
    split: str = Field(default="train", min_length=1, max_length=64)
    """Split to read; only with hf://."""
    on_bad_row: BadRowPolicy = BadRowPolicy.FAIL
    """What a row that breaks a rule (JSON, UTF-8, columns, roles, length) does. Fail refuses the text and names
    the first such rows; Skip leaves them out, counts them and names each with its line, up to one in ten."""
    max_row_characters: int = Field(
        default=DEFAULT_ROW_CHARACTERS, ge=1_000, le=MOST_ROW_CHARACTERS
    )
    """Characters that a row may have; a longer one breaks a rule. While a row is tokenised a character takes up
    to 940 bytes of the pod's memory."""
    validation: Validation | None = None
    """The held-out part; unset holds out 5 %, at most 2000 examples."""
    secret_ref: SecretRef | None = None
    """Secret with HF_TOKEN and/or AWS_* keys."""


class Language(Part):
    """One language: its tag, its text and, where wanted, its traits."""

    tag: str = Field(min_length=2, max_length=35, pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$")
    """BCP 47 tag such as sw, zh-Hans or pa-Arab; und decides by declared and measured traits alone."""
    traits: Traits | None = None
    """Declared traits; each beats the catalogue and every measurement."""
    dataset: Dataset
    """The text of this language."""
    weight: int = Field(default=1, ge=1, le=1000)
    """Share of this language in a mixture."""


class Merge(Part):
    """How adapters are merged."""

    combination: MergeCombination = MergeCombination.CAT
    """Cat is exact; the others cut the rank and report what that cost."""
    rank: int | None = Field(default=None, ge=1, le=1024)
    """Rank of the merged adapter; not with Cat."""
    density: float | None = Field(default=None, gt=0, le=1)
    """Share of weights kept; only with TiesSvd and DareTiesSvd."""


class Multilingual(Part):
    """What two or more languages become."""

    strategy: MultilingualStrategy = MultilingualStrategy.MIXTURE
    """Mixture trains one adapter on mixed data; Merge one adapter a language, then merges them."""
    temperature: float = Field(default=0.7, gt=0, le=1)
    """Mixture: languages are sampled by weight x size^temperature; 1 is by size, towards 0 evenly."""
    merge: Merge | None = None
    """Merge: how the adapters are combined."""


class ComputeResources(Part):
    """CPU, memory and disk of the trainer's container."""

    cpu: Quantity | None = None
    """CPU such as 4 or 500m."""
    memory: Quantity | None = None
    """Memory such as 32Gi."""
    ephemeral_storage: Quantity | None = Field(default=None, alias="ephemeral-storage")
    """Scratch disk such as 50Gi."""


class Resources(Part):
    """What the training pod gets."""

    gpus: int = Field(default=1, ge=0, le=16)
    """GPUs of each node; 0 trains on CPU (small models, demos, CI). Each does the micro-steps of a step, so
    twice the GPUs make a step of twice as many sequences, in about the same time."""
    nodes: int = Field(default=1, ge=1, le=64)
    """Nodes."""
    gpu_memory: Quantity | None = None
    """Memory of each GPU such as 80Gi: what fits it is decided before the run. Unset nothing is compared."""
    gpu_memory_class: GpuMemoryClass | None = None
    """Constrained trains one sequence at a time with more accumulation. Unset, the memory model decides
    where gpuMemory is known, and it is Ample otherwise."""
    requests: ComputeResources | None = None
    """Requests of the trainer's container."""
    limits: ComputeResources | None = None
    """Limits of the trainer's container."""


class Toleration(Part):
    """A Kubernetes toleration."""

    key: str | None = Field(default=None, max_length=317)
    """Taint key; empty with operator Exists matches all."""
    operator: Literal["Exists", "Equal"] | None = None
    """Exists or Equal."""
    value: str | None = Field(default=None, max_length=63)
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect."""
    toleration_seconds: int | None = Field(default=None, ge=0)
    """How long a NoExecute taint is tolerated."""


class Scheduling(Part):
    """Where and when the training pod runs."""

    queue_name: DnsName | None = None
    """Kueue LocalQueue."""
    priority_class_name: DnsName | None = None
    """PriorityClass of the pod."""
    node_selector: StringMap | None = None
    """Node labels the pod needs."""
    tolerations: list[Toleration] | None = Field(default=None, max_length=32)
    """Taints the pod tolerates."""
    runtime_class_name: DnsName | None = None
    """RuntimeClass of the pod."""
    service_account_name: DnsName | None = None
    """ServiceAccount of the pod, for workload identity. Only where the operator's settings allow it."""


class Hub(Part):
    """A repository on the Hugging Face Hub."""

    repo: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+$", max_length=192)
    """org/name."""
    private: bool = True
    """Whether a new repository is private."""
    secret_ref: SecretRef
    """Secret with HF_TOKEN."""


class Output(Part):
    """Where the adapter goes."""

    uri: Uri
    """s3://bucket/prefix; the adapter goes to <uri>/<namespace>/<name>/runs/<run>-<plan>/."""
    secret_ref: SecretRef | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL_S3.
    Unset uses the pod's own identity."""
    formats: list[OutputFormat] = Field(
        default_factory=lambda: [OutputFormat.ADAPTER], min_length=1, max_length=3
    )
    """What is published; the adapter always is."""
    hub: Hub | None = None
    """Publish to the Hugging Face Hub as well."""


class Checkpoints(Part):
    """When training state goes to S3; whichever comes first."""

    every_duration: str | None = Field(
        default=None, pattern=r"^([1-9][0-9]*(h|m|s))+$", max_length=32
    )
    """Time between checkpoints such as 30m; 10m where neither time nor steps are given."""
    every_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Steps between checkpoints; without a time, only steps count."""
    keep: int = Field(default=2, ge=1, le=100)
    """Newest checkpoints kept."""


class LanguageFinetuneSpec(Part):
    """What should be trained, on what, and where the adapter goes."""

    model: Model
    """The base model."""
    languages: list[Language] = Field(min_length=1, max_length=16)
    """The languages to learn; usually one."""
    multilingual: Multilingual | None = None
    """What two or more languages become; only with two or more."""
    stage: TrainingStage = TrainingStage.INSTRUCTION
    """Instruction learns answers; ContinuedPretraining learns plain text."""
    method: Method = Method.AUTO
    """What is trained; Auto takes LoRA, or QLoRA where gpuMemory holds nothing larger."""
    policy: Policy = Policy.GUIDE
    """Which rules decide what you do not: the guide, or evidence from measurements and literature."""
    parameters: Parameters | None = None
    """Overrides; each beats every rule and is announced in status."""
    resources: Resources = Field(default_factory=Resources)
    """What the training pod gets."""
    scheduling: Scheduling | None = None
    """Where and when the training pod runs."""
    output: Output
    """Where the adapter goes."""
    checkpoints: Checkpoints | None = None
    """When training state goes to S3."""
    mode: Mode = Mode.RUN
    """Plan measures and resolves and creates no GPU pod."""
    suspend: bool = False
    """True stops after a checkpoint and frees the GPU; false resumes there."""
    update_policy: UpdatePolicy = UpdatePolicy.REJECT
    """Whether a changed training field is refused or starts a new run once the Job exists."""
    active_deadline_seconds: int | None = Field(default=None, ge=1, le=31_536_000)
    """Longest time over all attempts."""
    deadline_policy: DeadlinePolicy = DeadlinePolicy.FAIL
    """Whether a run fails at its deadline, or ends with the best adapter that its checkpoints hold."""
    backoff_limit: int = Field(default=3, ge=0, le=20)
    """Attempts after the first, for ends that another attempt may cure."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=300, le=31_536_000)
    """Seconds after which a finished Job is deleted. The resource itself stays."""
    image: str | None = Field(default=None, min_length=1, max_length=512)
    """Trainer image. Only where the operator's settings allow it."""


class ObjectMeta(Lenient):
    """The part of Kubernetes metadata that the project reads."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class LanguageFinetune(Lenient):
    """The whole object. Status stays a plain mapping here: an old one must always parse."""

    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: LanguageFinetuneSpec
    status: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def from_object(cls, body: dict[str, Any]) -> Self:
        """Parse an object as the API server returns it.

        Raises:
            pydantic.ValidationError: the object does not fit the schema.
        """
        return cls.model_validate(body)
