"""Policy Guide: the client's guide as an ordered table of rules.

Each row is one rule with the items of the guide behind it; docs/guide-claims.md lists every item.
The guide contradicts itself in places; each case has one resolution here and a comment that names
it (C1 to C33, docs/guide-claims.md). The table is data of our own: it is never parsed from the
guide. Pure; it reads traits and knows no resource, model or cluster.
"""

from pydantic import JsonValue

from finetune_api.resource import (
    Corpus,
    Documents,
    GpuMemoryClass,
    ModelDepth,
    Morphology,
    ResourceLevel,
    SyntaxDistance,
    TokenDensity,
)
from finetune_resolver.rule import Rule, group_rules
from finetune_resolver.traits import Axes, MorphologyKind

TRAINER_ALPHA = "trainer.lora_alpha"
"""The trainer's view of alpha: told, never trained with (C2)."""

QV: JsonValue = ["q_proj", "v_proj"]
QVKO: JsonValue = ["q_proj", "v_proj", "k_proj", "o_proj"]
"""Base plus k and o, in the order of the guide's Arabic example (C24)."""
QKVO: JsonValue = ["q_proj", "k_proj", "v_proj", "o_proj"]
"""The guide's "advanced" list, in the order of its Hindi table (C24)."""


def is_dense(axes: Axes) -> bool:
    """Whether a token holds about one character."""
    return axes.token_density is TokenDensity.DENSE


def is_light(axes: Axes) -> bool:
    """Whether a token holds several characters."""
    return axes.token_density is TokenDensity.LIGHT


def is_small(axes: Axes) -> bool:
    """Whether this job has little text."""
    return axes.corpus is Corpus.SMALL


def is_medium(axes: Axes) -> bool:
    """Whether this job has a middling amount of text."""
    return axes.corpus is Corpus.MEDIUM


def is_large(axes: Axes) -> bool:
    """Whether this job has much text."""
    return axes.corpus is Corpus.LARGE


def is_low_resource(axes: Axes) -> bool:
    """Whether the language has little text in the world."""
    return axes.resource_level is ResourceLevel.LOW


def is_complex_inflectional(axes: Axes) -> bool:
    """Whether words, and not only the writing, are complex (C6, C8)."""
    orthographic = axes.morphology_kind is MorphologyKind.ORTHOGRAPHIC
    return axes.morphology is Morphology.COMPLEX and not orthographic


def is_constrained(axes: Axes) -> bool:
    """Whether the nominal batch does not fit the GPU."""
    return axes.gpu_memory is GpuMemoryClass.CONSTRAINED


def mixes_languages(axes: Axes) -> bool:
    """Whether sentences mix two languages."""
    return axes.code_switching is True


def _light_and_short(axes: Axes) -> bool:
    # C10: English has 4096 and Spanish 8192 with the same traits; the documents decide, and where
    # they are unknown a large corpus counts as long.
    short = axes.documents is Documents.SHORT
    return is_light(axes) and (short or (axes.documents is None and not is_large(axes)))


MORPHOLOGY = ("morphology", "morphology_kind")

RULES: tuple[Rule, ...] = (
    # --- Length and batch: by density ---
    Rule(
        id="MSL-2",
        parameter="max_seq_length",
        when=lambda axes: is_dense(axes) and axes.documents is Documents.LONG,
        value=4096,
        guide_ids=("G-MSL-3",),
        axes=("token_density", "documents"),
        message="Token-dense text with long documents takes the upper end of the dense range.",
    ),
    Rule(
        id="MSL-1",
        parameter="max_seq_length",
        when=is_dense,
        value=2048,
        # C11, C13: dense text needs more tokens, not fewer; the guide's value stays and truncation is told.
        guide_ids=("G-MSL-3", "G-MSL-6", "G-JA-1", "G-HT-1"),
        axes=("token_density", "documents"),
        message="Token-dense text takes the short length, because it fills the window sooner.",
    ),
    Rule(
        id="MSL-3",
        parameter="max_seq_length",
        when=_light_and_short,
        value=4096,
        guide_ids=("G-MSL-4", "G-MSL-5"),
        axes=("token_density", "documents", "corpus"),
        message="Token-light text takes the longer range, its lower end where documents are not long.",
    ),
    Rule(
        id="MSL-4",
        parameter="max_seq_length",
        when=is_light,
        value=8192,
        guide_ids=("G-MSL-4", "G-ES-1"),
        axes=("token_density", "documents", "corpus"),
        message="Token-light text with long documents or a large corpus takes the longest length.",
    ),
    Rule(
        id="MSL-0",
        parameter="max_seq_length",
        value=8192,
        guide_ids=("G-UN-11",),  # C27: of the snippet only the numbers count
        message="Token density is unknown, so the guide's general length applies.",
    ),
    Rule(
        id="BS-1",
        parameter="batch_size",
        when=is_dense,
        value=8,
        guide_ids=("G-BS-5", "G-HT-2"),
        axes=("token_density",),
        message="Token-dense text takes a small micro-batch, because its samples are held to be bigger (G-BS-1).",
    ),
    Rule(
        id="BS-2",
        parameter="batch_size",
        when=is_light,
        value=16,
        guide_ids=("G-BS-4",),
        axes=("token_density",),
        message="Token-light text affords the larger micro-batch.",
    ),
    Rule(
        id="BS-0",
        parameter="batch_size",
        value=8,
        guide_ids=("G-UN-11",),
        message="Token density is unknown, so the guide's general micro-batch applies.",
    ),
    Rule(
        id="PDB-1",
        parameter="per_device_train_batch_size",
        when=is_constrained,
        value=1,
        guide_ids=("G-HT-13",),
        axes=("gpu_memory",),
        message="GPU memory is constrained, so one sequence is trained at a time.",
    ),
    Rule(
        id="PDB-0",
        parameter="per_device_train_batch_size",
        copies="batch_size",
        axes=("gpu_memory",),
        message="GPU memory holds the whole micro-batch, so a device takes batch_size sequences.",
    ),
    Rule(
        id="GA-1",
        parameter="gradient_accumulation_steps",
        when=is_dense,
        value=4,
        # C5: "smaller batches for dense" speaks of the micro-batch; the effective batch may be larger.
        guide_ids=("G-JA-3", "G-HT-12"),
        axes=("token_density",),
        message="The small micro-batch of token-dense text is accumulated four times.",
    ),
    Rule(
        id="GA-2",
        parameter="gradient_accumulation_steps",
        when=is_constrained,
        value=4,
        guide_ids=("G-HT-12",),
        axes=("gpu_memory",),
        message="GPU memory is constrained, so four micro-steps make one optimizer step.",
    ),
    Rule(
        id="GA-0",
        parameter="gradient_accumulation_steps",
        value=1,
        guide_ids=("G-ES-3",),
        axes=("token_density", "gpu_memory"),
        message="The micro-batch is large enough to be an optimizer step of its own.",
    ),
    # --- Optimization: by how much text there is ---
    Rule(
        id="LR-1",
        parameter="learning_rate",
        # C1: the job's text and the language's are two axes; the lower one decides (G-LR-3 says "or").
        when=lambda axes: is_small(axes) or is_low_resource(axes),
        value=2e-5,
        guide_ids=("G-LR-1", "G-LR-3", "G-LR-4", "G-JA-4", "G-HT-3"),
        axes=("corpus", "resource_level"),
        message="A small corpus or a low-resource language overfits fast, so the rate is low.",
    ),
    Rule(
        id="LR-3",
        parameter="learning_rate",
        when=is_medium,
        value=1e-4,
        axes=("corpus", "resource_level"),
        message="A medium corpus takes a rate between the guide's two; the guide is silent here.",
    ),
    Rule(
        id="LR-2",
        parameter="learning_rate",
        when=is_large,
        value=2e-4,
        guide_ids=("G-LR-2", "G-LR-5", "G-ES-4"),
        axes=("corpus", "resource_level"),
        message="A large corpus affords the higher rate.",
    ),
    Rule(
        id="LR-0",
        parameter="learning_rate",
        value=2e-4,
        guide_ids=("G-UN-11",),
        axes=("resource_level",),
        message="The size of the corpus is unknown, so the guide's general rate applies.",
    ),
    Rule(
        id="OPT-1",
        parameter="optimizer",
        value="AdamW",
        guide_ids=("G-OP-4", "G-HT-4"),
        message="The guide trains every language with AdamW.",
    ),
    Rule(
        id="WD-1",
        parameter="weight_decay",
        when=is_complex_inflectional,
        value=0.01,
        # C6: with {complex, dense, small} and no language, Hindi's value wins (a documented tie).
        guide_ids=("G-OP-2", "G-OP-5", "G-HT-5"),
        axes=MORPHOLOGY,
        message="Rich inflection keeps the guide's usual weight decay.",
    ),
    Rule(
        id="WD-2",
        parameter="weight_decay",
        when=lambda axes: is_dense(axes) and is_small(axes),
        value=0.001,
        guide_ids=("G-OP-3", "G-JA-5"),
        axes=("token_density", "corpus", *MORPHOLOGY),
        message="Token-dense text in a small corpus without rich inflection takes the lighter decay.",
    ),
    Rule(
        id="WD-0",
        parameter="weight_decay",
        value=0.01,  # C7: the default; 0.001 is its one exception
        guide_ids=("G-OP-5", "G-ES-5"),
        axes=("token_density", "corpus", *MORPHOLOGY),
        message="The guide's usual weight decay applies.",
    ),
    # --- Fixed by the guide ---
    Rule(
        id="GC-1",
        parameter="gradient_checkpointing",
        value=True,  # C32
        guide_ids=("G-GC-2",),
        message="The guide always enables it, above all for long text and heavy languages (G-GC-1, G-HT-8).",
    ),
    Rule(
        id="FA-1",
        parameter="use_flash_attention",
        value=True,  # C32
        guide_ids=("G-FA-3",),
        message="The guide always asks for it, for long contexts and complex morphology (G-FA-2, G-HT-9).",
    ),
    Rule(
        id="EP-1",
        parameter="num_train_epochs",
        value=3,
        guide_ids=("G-HT-10",),
        message="Few passes and early stopping keep the adapter from overfitting.",
    ),
    Rule(
        id="EP-2",
        parameter="max_steps",
        value=-1,  # C20
        guide_ids=("G-HT-11",),
        message="Epochs decide the length of the run.",
    ),
    Rule(
        id="EV-1",
        parameter="evaluation_strategy",
        value="steps",
        guide_ids=("G-HT-14",),
        message="The held-out part is evaluated every 100 to 500 steps.",
    ),
    Rule(
        id="EV-2",
        parameter="save_strategy",
        value="epoch",  # C19
        guide_ids=("G-HT-15",),
        message="The end of each epoch is a candidate for the published adapter.",
    ),
    Rule(
        id="EV-3",
        parameter="early_stopping_patience",
        value=3,  # C21
        guide_ids=("G-HT-16",),
        message="Training stops after three evaluations without a lower loss.",
    ),
    # --- The adapter ---
    Rule(
        id="R-1",
        parameter="r",
        when=is_small,
        value=8,  # C17
        guide_ids=("G-R-3", "G-R-5"),
        axes=("corpus",),
        message="A small corpus takes a small rank: fewer parameters overfit less.",
    ),
    Rule(
        id="R-2",
        parameter="r",
        when=is_medium,
        value=16,
        guide_ids=("G-HE-1",),
        axes=("corpus",),
        message="A medium corpus takes the middle rank of the guide's Hindi-English example.",
    ),
    Rule(
        id="R-3",
        parameter="r",
        when=is_large,
        value=32,
        guide_ids=("G-R-4", "G-R-6"),
        axes=("corpus",),
        message="A large corpus takes a large rank: it has more to express.",
    ),
    Rule(
        id="R-0",
        parameter="r",
        value=16,
        guide_ids=("G-GEN-1",),
        message="The size of the corpus is unknown, so the guide's generic rank applies.",
    ),
    Rule(
        id="TA-1",
        parameter=TRAINER_ALPHA,
        when=is_small,
        value=16,
        guide_ids=("G-TL-3", "G-JA-6", "G-HT-6"),
        axes=("corpus",),
        message="The trainer's section of the guide takes alpha 16 for a small corpus",
    ),
    Rule(
        id="TA-2",
        parameter=TRAINER_ALPHA,
        value=32,
        guide_ids=("G-TL-5", "G-ES-6"),
        axes=("corpus",),
        message="The trainer's section of the guide takes alpha 32 unless the corpus is small",
    ),
    Rule(
        id="PA-1",
        parameter="lora_alpha",
        when=mixes_languages,
        value=32,
        guide_ids=("G-HE-2",),
        axes=("code_switching",),
        message="Mixed-language text takes the one alpha that simple and complex morphology share.",
    ),
    Rule(
        id="PA-2",
        parameter="lora_alpha",
        when=is_complex_inflectional,
        value=64,
        guide_ids=("G-PA-5", "G-AR-2", "G-HP-2"),
        axes=MORPHOLOGY,
        message="Rich inflection takes the highest alpha, which the guide holds to smooth updates (G-PA-2).",
    ),
    Rule(
        id="PA-3",
        parameter="lora_alpha",
        when=is_small,
        value=16,
        guide_ids=("G-PA-4", "G-SW-2"),
        axes=("corpus", *MORPHOLOGY),
        message="A small corpus without rich inflection takes the lower end of the simple range.",
    ),
    Rule(
        id="PA-4",
        parameter="lora_alpha",
        value=32,
        guide_ids=("G-PA-4", "G-PA-6", "G-GEN-2"),
        axes=("corpus", *MORPHOLOGY),
        message="Without rich inflection the guide's usual alpha applies.",
    ),
    Rule(
        id="DO-1",
        parameter="lora_dropout",
        when=lambda axes: is_small(axes) or is_medium(axes),
        value=0.1,
        guide_ids=("G-TL-4", "G-PD-3", "G-HE-3"),
        axes=("corpus",),
        message="A small or medium corpus takes more dropout, so that the adapter generalises.",
    ),
    Rule(
        id="DO-2",
        parameter="lora_dropout",
        value=0.05,  # C16, C18
        guide_ids=("G-TL-6", "G-PD-4", "G-GEN-3"),
        axes=("corpus",),
        message="A large corpus, or one of unknown size, takes little dropout.",
    ),
    Rule(
        id="TM-2",
        parameter="target_modules",
        when=lambda axes: axes.model_depth is ModelDepth.DEEP,
        value=QKVO,
        guide_ids=("G-TM-2", "G-TM-4", "G-HP-4"),
        axes=("model_depth",),
        message="A deeper model adapts all four attention projections.",
    ),
    Rule(
        id="TM-1",
        parameter="target_modules",
        when=mixes_languages,
        value=QV,
        guide_ids=("G-HE-6",),
        axes=("code_switching",),
        message="Mixed-language text adapts the query and value projections.",
    ),
    Rule(
        id="TM-3",
        parameter="target_modules",
        when=lambda axes: axes.syntax_distance is SyntaxDistance.FAR,
        value=QVKO,
        guide_ids=("G-TM-5", "G-AR-6"),
        axes=("syntax_distance",),
        message="Word order far from the base model's needs attention adapted more heavily.",
    ),
    Rule(
        id="TM-4",
        parameter="target_modules",
        when=lambda axes: axes.syntax_distance is None and is_complex_inflectional(axes),
        value=QVKO,
        guide_ids=("G-AR-0", "G-AR-6"),
        axes=MORPHOLOGY,
        message="Word order is unknown and morphology rich, so attention is adapted more heavily.",
    ),
    Rule(
        id="TM-0",
        parameter="target_modules",
        value=QV,
        guide_ids=("G-TM-1", "G-TM-3", "G-SW-6", "G-GEN-6"),
        axes=("syntax_distance", *MORPHOLOGY),
        message="Most models need only the query and value projections adapted.",
    ),
    Rule(
        id="BI-1",
        parameter="bias",
        value="none",  # C22: PEFT's word is a text, not a null
        guide_ids=("G-BI-1",),
        message="Biases stay frozen: the adapter is lighter and cleaner.",
    ),
    Rule(
        id="TT-1",
        parameter="task_type",
        value="CAUSAL_LM",
        guide_ids=("G-GEN-5",),
        message="The model learns to write the next token.",
    ),
)
"""The whole table, in the order its parameters are decided and shown."""

GROUPS = group_rules(RULES)
