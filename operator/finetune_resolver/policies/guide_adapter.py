"""Policy Guide, the adapter's half of the table: rank, alpha, dropout, modules, bias.

Rows as `rules_guide` explains them; a comment names the contradiction (C1 to C33) that a row resolves.
"""

from pydantic import JsonValue

from finetune_api.resource import ModelDepth, SyntaxDistance
from finetune_resolver.policies.rule import TraitRule
from finetune_resolver.traits.predicates import (
    MORPHOLOGY,
    is_code_switched,
    is_complex_inflectional,
    is_large,
    is_medium,
    is_small,
)

TRAINER_ALPHA = "trainer.lora_alpha"
"""The trainer's view of alpha: shown, never trained with (C2)."""

QV: JsonValue = ["q_proj", "v_proj"]
QVKO: JsonValue = ["q_proj", "v_proj", "k_proj", "o_proj"]
"""Base plus k and o, in the order of the guide's Arabic example (C24)."""
QKVO: JsonValue = ["q_proj", "k_proj", "v_proj", "o_proj"]
"""The guide's "advanced" list, in the order of its Hindi table (C24)."""

ADAPTER: tuple[TraitRule, ...] = (
    TraitRule(
        id="R-1",
        parameter="r",
        when=is_small,
        value=8,  # C17
        guide_ids=("G-R-3", "G-R-5"),
        axes=("corpus",),
        message="A small corpus takes a small rank: fewer parameters overfit less.",
    ),
    TraitRule(
        id="R-2",
        parameter="r",
        when=is_medium,
        value=16,
        guide_ids=("G-HE-1",),
        axes=("corpus",),
        message="A medium corpus takes the middle rank of the guide's Hindi-English example.",
    ),
    TraitRule(
        id="R-3",
        parameter="r",
        when=is_large,
        value=32,
        guide_ids=("G-R-4", "G-R-6"),
        axes=("corpus",),
        message="A large corpus takes a large rank: it has more to express.",
    ),
    TraitRule(
        id="R-0",
        parameter="r",
        value=16,
        guide_ids=("G-GEN-1",),
        message="The size of the corpus is unknown, so the guide's generic rank applies.",
    ),
    TraitRule(
        id="TA-1",
        parameter=TRAINER_ALPHA,
        when=is_small,
        value=16,
        guide_ids=("G-TL-3", "G-JA-6", "G-HT-6"),
        axes=("corpus",),
        message="The trainer's section of the guide takes alpha 16 for a small corpus",
    ),
    TraitRule(
        id="TA-2",
        parameter=TRAINER_ALPHA,
        value=32,
        guide_ids=("G-TL-5", "G-ES-6"),
        axes=("corpus",),
        message="The trainer's section of the guide takes alpha 32 unless the corpus is small",
    ),
    TraitRule(
        id="PA-1",
        parameter="lora_alpha",
        when=is_code_switched,
        value=32,
        guide_ids=("G-HE-2",),
        axes=("code_switching",),
        message="Mixed-language text takes the one alpha that simple and complex morphology share.",
    ),
    TraitRule(
        id="PA-2",
        parameter="lora_alpha",
        when=is_complex_inflectional,
        value=64,
        guide_ids=("G-PA-5", "G-AR-2", "G-HP-2"),
        axes=MORPHOLOGY,
        message="Rich inflection takes the highest alpha, which the guide holds to smooth updates (G-PA-2).",
    ),
    TraitRule(
        id="PA-3",
        parameter="lora_alpha",
        when=is_small,
        value=16,
        guide_ids=("G-PA-4", "G-SW-2"),
        axes=("corpus", *MORPHOLOGY),
        message="A small corpus without rich inflection takes the lower end of the simple range.",
    ),
    TraitRule(
        id="PA-4",
        parameter="lora_alpha",
        value=32,
        guide_ids=("G-PA-4", "G-PA-6", "G-GEN-2"),
        axes=("corpus", *MORPHOLOGY),
        message="Without rich inflection the guide's usual alpha applies.",
    ),
    TraitRule(
        id="DO-1",
        parameter="lora_dropout",
        when=lambda axes: is_small(axes) or is_medium(axes),
        value=0.1,
        guide_ids=("G-TL-4", "G-PD-3", "G-HE-3"),
        axes=("corpus",),
        message="A small or medium corpus takes more dropout, so that the adapter generalises.",
    ),
    TraitRule(
        id="DO-2",
        parameter="lora_dropout",
        value=0.05,  # C16, C18
        guide_ids=("G-TL-6", "G-PD-4", "G-GEN-3"),
        axes=("corpus",),
        message="A large corpus, or one of unknown size, takes little dropout.",
    ),
    TraitRule(
        id="TM-2",
        parameter="target_modules",
        when=lambda axes: axes.model_depth is ModelDepth.DEEP,
        value=QKVO,
        guide_ids=("G-TM-2", "G-TM-4", "G-HP-4"),
        axes=("model_depth",),
        message="A deeper model adapts all four attention projections.",
    ),
    TraitRule(
        id="TM-1",
        parameter="target_modules",
        when=is_code_switched,
        value=QV,
        guide_ids=("G-HE-6",),
        axes=("code_switching",),
        message="Mixed-language text adapts the query and value projections.",
    ),
    TraitRule(
        id="TM-3",
        parameter="target_modules",
        when=lambda axes: axes.syntax_distance is SyntaxDistance.FAR,
        value=QVKO,
        guide_ids=("G-TM-5", "G-AR-6"),
        axes=("syntax_distance",),
        message="Word order far from the base model's needs attention adapted more heavily.",
    ),
    TraitRule(
        id="TM-4",
        parameter="target_modules",
        when=lambda axes: axes.syntax_distance is None and is_complex_inflectional(axes),
        value=QVKO,
        guide_ids=("G-AR-0", "G-AR-6"),
        axes=MORPHOLOGY,
        message="Word order is unknown and morphology rich, so attention is adapted more heavily.",
    ),
    TraitRule(
        id="TM-0",
        parameter="target_modules",
        value=QV,
        guide_ids=("G-TM-1", "G-TM-3", "G-SW-6", "G-GEN-6"),
        axes=("syntax_distance", *MORPHOLOGY),
        message="Most models need only the query and value projections adapted.",
    ),
    TraitRule(
        id="BI-1",
        parameter="bias",
        value="none",  # C22: PEFT's word is a text, not a null
        guide_ids=("G-BI-1",),
        message="Biases stay frozen: the adapter is lighter and cleaner.",
    ),
    TraitRule(
        id="TT-1",
        parameter="task_type",
        value="CAUSAL_LM",
        guide_ids=("G-GEN-5",),
        message="The model learns to write the next token.",
    ),
)
