"""Which rows a suite has: shape, engine, method, adapter and batch of each. Pure.

Read by `run`, `stock` and `own`. A row is one engine in a process of its own. Rows of one shape see
the same documents in the same order, in steps of the same number of documents.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from tests.bench.gpu.shapes import LLAMA_1B, LLAMA_8B, TINY, Shape

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
QUERY_VALUE = ("q_proj", "v_proj")
TARGET_NAMES = {ALL: "all linear", ATTENTION: "q,k,v,o", QUERY_VALUE: "q,v"}
SEED = 0
MICRO_BATCH = 8
"""Documents that the stock engines hold at once; the rest of a step is accumulated."""
WARM_UP = 2
"""Steps that no speed is taken from: kernels are compiled and memory is found."""


class EngineName(StrEnum):
    """Who trains."""

    TRL = "trl"
    """TRL's SFTTrainer with PEFT, as their defaults are."""
    UNSLOTH = "unsloth"
    """Unsloth's FastLanguageModel under SFTTrainer, as its defaults are."""
    OWN = "language-finetune"
    """This trainer, through its entry point, by its own choice."""


@dataclass(frozen=True)
class Row:
    """One measurement."""

    shape: Shape
    engine: EngineName
    batch: int
    """Documents of one optimizer step."""
    steps: int
    """Optimizer steps, the first `warm_up` of them untimed."""
    targets: tuple[str, ...] = ALL
    dropout: float = 0.0
    rank: int = 16
    method: str = "LoRA"
    """LoRA or QLoRA."""
    longest: int = 2048
    """Tokens at which a document is cut."""
    mean: int = 400
    """Mean tokens of a document."""
    learning_rate: float = 2e-4
    """Moves the loss within a few steps, so that a wrong gradient shows. With 1e-3 a random 8B's loss
    jumps in single steps by more than engines may differ (measured)."""
    micro_batch: int = MICRO_BATCH
    warm_up: int = WARM_UP
    gpus: int = 1
    """GPUs that train together."""
    alone: bool = False
    """Whether nothing else may run on the machine meanwhile, whatever GPUs it has left."""

    @property
    def name(self) -> str:
        """Unique in a suite, and a file name."""
        targets = TARGET_NAMES[self.targets].replace(",", "").replace(" ", "-")
        name = f"{self.shape.name}-{self.engine.value}-{self.method}-{targets}-{self.dropout}"
        return name if self.gpus == 1 else f"{name}-{self.gpus}gpus-{self.batch}"

    @property
    def needs_machine(self) -> bool:
        """Whether the row is measured with nothing beside it."""
        return self.alone or self.gpus > 1

    @property
    def accumulation(self) -> int:
        """Micro-batches of one step on each GPU."""
        return self.batch // self.micro_batch // self.gpus

    def is_twin_of(self, other: "Row") -> bool:
        """Whether both do the same arithmetic, so that their losses must be equal."""
        return self == replace(
            other, engine=self.engine, steps=self.steps, gpus=self.gpus, alone=self.alone
        )


STOCK_8B = Row(shape=LLAMA_8B, engine=EngineName.TRL, batch=32, steps=5)
"""12,800 tokens a step; stock TRL takes 8 s for one."""
STOCK_1B = Row(shape=LLAMA_1B, engine=EngineName.TRL, batch=80, steps=5)
"""32,000 tokens a step."""
OWN_8B = replace(STOCK_8B, engine=EngineName.OWN, steps=20)
OWN_1B = replace(STOCK_1B, engine=EngineName.OWN, steps=30, alone=True)
"""Alone: its steps are short, and beside another row they were 6 % slower than alone (two calls)."""

SMALL = (
    STOCK_1B,
    replace(STOCK_1B, engine=EngineName.UNSLOTH),
    replace(OWN_1B, steps=12),
)
# Neighbours in this list run beside each other on two GPUs, after those that have the machine to themselves.
# This trainer's rows hardly need the host, stock Unsloth's send their activations to it.
FULL = (
    OWN_8B,
    STOCK_8B,
    OWN_1B,
    replace(OWN_8B, dropout=0.1),
    replace(OWN_8B, targets=QUERY_VALUE, dropout=0.1),
    replace(OWN_8B, targets=ATTENTION, dropout=0.1),
    replace(OWN_8B, method="QLoRA"),
    replace(STOCK_8B, engine=EngineName.UNSLOTH),
    STOCK_1B,
    replace(STOCK_1B, engine=EngineName.UNSLOTH),
    # What `gpus: 2` makes of the same parameters, and the harder way: a step as large as on one GPU.
    replace(OWN_8B, gpus=2, batch=2 * OWN_8B.batch, steps=OWN_8B.steps // 2),
    replace(OWN_8B, gpus=2),
)
DRY = tuple(
    Row(
        shape=TINY,
        engine=engine,
        batch=8,
        steps=6,
        longest=64,
        mean=24,
        micro_batch=4,
    )
    for engine in EngineName
)
"""Without a GPU: every path of the suite once, in seconds, with speeds that say nothing."""
SUITES = {"small": SMALL, "full": FULL, "dry": DRY}
