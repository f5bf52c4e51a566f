"""The words that the resource can choose between, one enum a field.

Values are CamelCase and none is a word that YAML reads as a boolean. What a word leads to is decided
elsewhere; its name may be used everywhere, from `finetune_api.resource`.
"""

from enum import StrEnum


class BadRowPolicy(StrEnum):
    """What a row that breaks a rule does: `Fail` refuses the text, `Skip` leaves the row out."""

    FAIL = "Fail"
    SKIP = "Skip"


class Morphology(StrEnum):
    """How much a word carries: `Simple` (English, Spanish) or `Complex` (Hindi, Arabic, Finnish)."""

    SIMPLE = "Simple"
    COMPLEX = "Complex"


class TokenDensity(StrEnum):
    """Characters a token holds: `Light` is two or more, `Dense` fewer (Chinese, Hindi)."""

    LIGHT = "Light"
    DENSE = "Dense"


class Corpus(StrEnum):
    """How much text this job has."""

    SMALL = "Small"
    MEDIUM = "Medium"
    LARGE = "Large"


class ResourceLevel(StrEnum):
    """How much text the language has in the world."""

    LOW = "Low"
    HIGH = "High"


class Documents(StrEnum):
    """Length of this corpus' documents."""

    SHORT = "Short"
    LONG = "Long"


class SyntaxDistance(StrEnum):
    """Distance of word order from the base model's main language."""

    NEAR = "Near"
    FAR = "Far"


class ModelDepth(StrEnum):
    """`Deep` from 40 hidden layers on."""

    STANDARD = "Standard"
    DEEP = "Deep"


class GpuMemoryClass(StrEnum):
    """Whether the nominal batch fits a GPU."""

    AMPLE = "Ample"
    CONSTRAINED = "Constrained"


class DatasetFormat(StrEnum):
    """How a row of the dataset is read."""

    AUTO = "Auto"
    CHAT = "Chat"
    INSTRUCTION = "Instruction"
    PROMPT_COMPLETION = "PromptCompletion"
    TEXT = "Text"


class MultilingualStrategy(StrEnum):
    """One adapter on mixed data, or one adapter a language, then merged."""

    MIXTURE = "Mixture"
    MERGE = "Merge"


class MergeCombination(StrEnum):
    """How adapters are combined; each is exact or reports its residual."""

    CAT = "Cat"
    SVD = "Svd"
    TIES_SVD = "TiesSvd"
    DARE_TIES_SVD = "DareTiesSvd"


class TrainingStage(StrEnum):
    """Instructions with answers, or plain text."""

    INSTRUCTION = "Instruction"
    CONTINUED_PRETRAINING = "ContinuedPretraining"


class Method(StrEnum):
    """What is trained: an adapter, an adapter over a 4-bit base, or every weight."""

    AUTO = "Auto"
    LORA = "LoRA"
    QLORA = "QLoRA"
    FULL = "Full"


class Policy(StrEnum):
    """Which rules decide what the user does not: the guide, or measurements and literature."""

    GUIDE = "Guide"
    EVIDENCE = "Evidence"


class Optimizer(StrEnum):
    """AdamW is the guide's; the 8-bit form saves optimizer memory."""

    ADAMW = "AdamW"
    ADAMW_8BIT = "AdamW8bit"


class LrScheduler(StrEnum):
    """Shape of the learning rate after warm-up."""

    LINEAR = "Linear"
    COSINE = "Cosine"
    CONSTANT = "Constant"


class EvalStrategy(StrEnum):
    """When the held-out part is evaluated."""

    NEVER = "Never"
    STEPS = "Steps"
    EPOCH = "Epoch"


class SaveStrategy(StrEnum):
    """Which checkpoints are candidates for the published adapter."""

    NEVER = "Never"
    STEPS = "Steps"
    EPOCH = "Epoch"
    BEST = "Best"


class Bias(StrEnum):
    """Which biases are trained; the guide's None is PEFT's "none"."""

    NONE = "None"
    ALL = "All"
    LORA_ONLY = "LoraOnly"


class OutputFormat(StrEnum):
    """What is published."""

    ADAPTER = "Adapter"
    MERGED_16BIT = "Merged16Bit"
    GGUF = "GGUF"


class Mode(StrEnum):
    """`Plan` measures and resolves and creates no GPU pod."""

    RUN = "Run"
    PLAN = "Plan"


class DeadlinePolicy(StrEnum):
    """What becomes of a run at its deadline."""

    FAIL = "Fail"
    PUBLISH_BEST = "PublishBest"


class UpdatePolicy(StrEnum):
    """What a changed training field does once the Job exists."""

    REJECT = "Reject"
    RECREATE = "Recreate"
