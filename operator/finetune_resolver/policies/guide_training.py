"""Policy Guide, the trainer's half of the table: length, batch, optimisation, evaluation.

Rows as `rules_guide` explains them; a comment names the contradiction (C1 to C33) that a row resolves.
"""

from finetune_api.resource import Documents
from finetune_resolver.policies.rule import TraitRule
from finetune_resolver.traits.predicates import (
    MORPHOLOGY,
    is_complex_inflectional,
    is_constrained,
    is_dense,
    is_large,
    is_light,
    is_light_and_short,
    is_low_resource,
    is_medium,
    is_small,
)

TRAINING: tuple[TraitRule, ...] = (
    # --- Length and batch: by density ---
    TraitRule(
        id="MSL-2",
        parameter="max_seq_length",
        when=lambda axes: is_dense(axes) and axes.documents is Documents.LONG,
        value=4096,
        guide_ids=("G-MSL-3",),
        axes=("token_density", "documents"),
        message="Token-dense text with long documents takes the upper end of the dense range.",
    ),
    TraitRule(
        id="MSL-1",
        parameter="max_seq_length",
        when=is_dense,
        value=2048,
        # C11, C13: dense text needs more tokens, not fewer; the guide's value stays and truncation is reported.
        guide_ids=("G-MSL-3", "G-MSL-6", "G-JA-1", "G-HT-1"),
        axes=("token_density", "documents"),
        message="Token-dense text takes the short length, because it fills the window sooner.",
    ),
    TraitRule(
        id="MSL-3",
        parameter="max_seq_length",
        when=is_light_and_short,
        value=4096,
        guide_ids=("G-MSL-4", "G-MSL-5"),
        axes=("token_density", "documents", "corpus"),
        message="Token-light text takes the longer range, its lower end where documents are not long.",
    ),
    TraitRule(
        id="MSL-4",
        parameter="max_seq_length",
        when=is_light,
        value=8192,
        guide_ids=("G-MSL-4", "G-ES-1"),
        axes=("token_density", "documents", "corpus"),
        message="Token-light text with long documents or a large corpus takes the longest length.",
    ),
    TraitRule(
        id="MSL-0",
        parameter="max_seq_length",
        value=8192,
        guide_ids=("G-UN-11",),  # C27: of the snippet only the numbers count
        message="Token density is unknown, so the guide's general length applies.",
    ),
    TraitRule(
        id="BS-1",
        parameter="batch_size",
        when=is_dense,
        value=8,
        guide_ids=("G-BS-5", "G-HT-2"),
        axes=("token_density",),
        message="Token-dense text takes a small micro-batch, because its samples are held to be bigger (G-BS-1).",
    ),
    TraitRule(
        id="BS-2",
        parameter="batch_size",
        when=is_light,
        value=16,
        guide_ids=("G-BS-4",),
        axes=("token_density",),
        message="Token-light text affords the larger micro-batch.",
    ),
    TraitRule(
        id="BS-0",
        parameter="batch_size",
        value=8,
        guide_ids=("G-UN-11",),
        message="Token density is unknown, so the guide's general micro-batch applies.",
    ),
    TraitRule(
        id="PDB-1",
        parameter="per_device_train_batch_size",
        when=is_constrained,
        value=1,
        guide_ids=("G-HT-13",),
        axes=("gpu_memory",),
        message="GPU memory is constrained, so one sequence is trained at a time.",
    ),
    TraitRule(
        id="PDB-0",
        parameter="per_device_train_batch_size",
        copies="batch_size",
        axes=("gpu_memory",),
        message="GPU memory holds the whole micro-batch, so a device takes batch_size sequences.",
    ),
    TraitRule(
        id="GA-1",
        parameter="gradient_accumulation_steps",
        when=is_dense,
        value=4,
        # C5: "smaller batches for dense" speaks of the micro-batch; the effective batch may be larger.
        guide_ids=("G-JA-3", "G-HT-12"),
        axes=("token_density",),
        message="The small micro-batch of token-dense text is accumulated four times.",
    ),
    TraitRule(
        id="GA-2",
        parameter="gradient_accumulation_steps",
        when=is_constrained,
        value=4,
        guide_ids=("G-HT-12",),
        axes=("gpu_memory",),
        message="GPU memory is constrained, so four micro-steps make one optimizer step.",
    ),
    TraitRule(
        id="GA-0",
        parameter="gradient_accumulation_steps",
        value=1,
        guide_ids=("G-ES-3",),
        axes=("token_density", "gpu_memory"),
        message="The micro-batch is large enough to be an optimizer step of its own.",
    ),
    # --- Optimization: by how much text there is ---
    TraitRule(
        id="LR-1",
        parameter="learning_rate",
        # C1: the job's text and the language's are two axes; the lower one decides (G-LR-3 says "or").
        when=lambda axes: is_small(axes) or is_low_resource(axes),
        value=2e-5,
        guide_ids=("G-LR-1", "G-LR-3", "G-LR-4", "G-JA-4", "G-HT-3"),
        axes=("corpus", "resource_level"),
        message="A small corpus or a low-resource language overfits fast, so the rate is low.",
    ),
    TraitRule(
        id="LR-3",
        parameter="learning_rate",
        when=is_medium,
        value=1e-4,
        axes=("corpus", "resource_level"),
        message="A medium corpus takes a rate between the guide's two; the guide is silent here.",
    ),
    TraitRule(
        id="LR-2",
        parameter="learning_rate",
        when=is_large,
        value=2e-4,
        guide_ids=("G-LR-2", "G-LR-5", "G-ES-4"),
        axes=("corpus", "resource_level"),
        message="A large corpus affords the higher rate.",
    ),
    TraitRule(
        id="LR-0",
        parameter="learning_rate",
        value=2e-4,
        guide_ids=("G-UN-11",),
        axes=("resource_level",),
        message="The size of the corpus is unknown, so the guide's general rate applies.",
    ),
    TraitRule(
        id="OPT-1",
        parameter="optimizer",
        value="AdamW",
        guide_ids=("G-OP-4", "G-HT-4"),
        message="The guide trains every language with AdamW.",
    ),
    TraitRule(
        id="WD-1",
        parameter="weight_decay",
        when=is_complex_inflectional,
        value=0.01,
        # C6: with {complex, dense, small} and no language, Hindi's value wins (a documented tie).
        guide_ids=("G-OP-2", "G-OP-5", "G-HT-5"),
        axes=MORPHOLOGY,
        message="Rich inflection keeps the guide's usual weight decay.",
    ),
    TraitRule(
        id="WD-2",
        parameter="weight_decay",
        when=lambda axes: is_dense(axes) and is_small(axes),
        value=0.001,
        guide_ids=("G-OP-3", "G-JA-5"),
        axes=("token_density", "corpus", *MORPHOLOGY),
        message="Token-dense text in a small corpus without rich inflection takes the lighter decay.",
    ),
    TraitRule(
        id="WD-0",
        parameter="weight_decay",
        value=0.01,  # C7: the default; 0.001 is its one exception
        guide_ids=("G-OP-5", "G-ES-5"),
        axes=("token_density", "corpus", *MORPHOLOGY),
        message="The guide's usual weight decay applies.",
    ),
    # --- Fixed by the guide ---
    TraitRule(
        id="GC-1",
        parameter="gradient_checkpointing",
        value=True,  # C32
        guide_ids=("G-GC-2",),
        message="The guide always enables it, above all for long text and heavy languages (G-GC-1, G-HT-8).",
    ),
    TraitRule(
        id="FA-1",
        parameter="use_flash_attention",
        value=True,  # C32
        guide_ids=("G-FA-3",),
        message="The guide always asks for it, for long contexts and complex morphology (G-FA-2, G-HT-9).",
    ),
    TraitRule(
        id="EP-1",
        parameter="num_train_epochs",
        value=3,
        guide_ids=("G-HT-10",),
        message="Few passes and early stopping keep the adapter from overfitting.",
    ),
    TraitRule(
        id="EP-2",
        parameter="max_steps",
        value=-1,  # C20
        guide_ids=("G-HT-11",),
        message="Epochs decide the length of the run.",
    ),
    TraitRule(
        id="EV-1",
        parameter="evaluation_strategy",
        value="steps",
        guide_ids=("G-HT-14",),
        message="The held-out part is evaluated every 100 to 500 steps.",
    ),
    TraitRule(
        id="EV-2",
        parameter="save_strategy",
        value="epoch",  # C19
        guide_ids=("G-HT-15",),
        message="The end of each epoch is a candidate for the published adapter.",
    ),
    TraitRule(
        id="EV-3",
        parameter="early_stopping_patience",
        value=3,  # C21
        guide_ids=("G-HT-16",),
        message="Training stops after three evaluations without a lower loss.",
    ),
)
