"""What the guide is silent on: one default a parameter, with its source.

Every comparable system needs these values, so they are decided here and marked as not in the guide.
What a stage changes stands in a table of its own.
"""

from finetune_api.resource import TrainingStage
from finetune_resolver.policies.rule import TraitRule

RULES: tuple[TraitRule, ...] = (
    TraitRule(
        id="D-WR",
        parameter="warmup_ratio",
        value=0.03,
        message="Not in the guide: 3 % of the steps warm up, as in the Alpaca and QLoRA scripts.",
    ),
    TraitRule(
        id="D-WS",
        parameter="warmup_steps",
        value=0,
        message="Not in the guide: warmup_ratio decides.",
    ),
    TraitRule(
        id="D-LS",
        parameter="lr_scheduler",
        value="linear",
        message="Not in the guide: the rate falls linearly to zero, as transformers does by default.",
    ),
    TraitRule(
        id="D-GN",
        parameter="max_grad_norm",
        value=1.0,
        message="Not in the guide: gradients are clipped to norm 1, as transformers does by default.",
    ),
    TraitRule(
        id="D-SD",
        parameter="seed",
        value=3407,
        message="Not in the guide: the seed of Unsloth's notebooks, fixed so that a run can be repeated.",
    ),
    TraitRule(
        id="D-ES",
        parameter="eval_steps",
        value=None,
        message="Not in the guide as one number: a twentieth of all steps, held within its 100 to 500 (G-HT-14), once steps are known.",
    ),
    TraitRule(
        id="D-SS",
        parameter="save_steps",
        value=None,
        message="Not in the guide: as eval_steps, where save_strategy is steps.",
    ),
    TraitRule(
        id="D-RS",
        parameter="use_rslora",
        value=False,
        message="Not in the guide: plain scaling by alpha/r, as PEFT does by default.",
    ),
    TraitRule(
        id="D-DO",
        parameter="use_dora",
        value=False,
        message="Not in the guide: plain LoRA, as PEFT does by default.",
    ),
)

STAGE_RULES: dict[TrainingStage, tuple[TraitRule, ...]] = {
    TrainingStage.INSTRUCTION: (
        TraitRule(
            id="D-PI",
            parameter="packing",
            value=False,
            message="Not in the guide: each example is a sequence of its own.",
        ),
        TraitRule(
            id="D-CI",
            parameter="completion_only_loss",
            value=True,
            message="Not in the guide: the adapter learns from the answers and not from the prompts.",
        ),
    ),
    TrainingStage.CONTINUED_PRETRAINING: (
        TraitRule(
            id="D-PT",
            parameter="packing",
            value=True,
            message="Not in the guide: plain text fills blocks, so that no token is lost.",
        ),
        TraitRule(
            id="D-CT",
            parameter="completion_only_loss",
            value=False,
            message="Not in the guide: every token of plain text is learned from.",
        ),
    ),
}

ALL_RULES: tuple[TraitRule, ...] = RULES + tuple(r for rules in STAGE_RULES.values() for r in rules)
"""Every default of every stage."""

BY_STAGE: dict[TrainingStage, dict[str, TraitRule]] = {
    stage: {rule.parameter: rule for rule in RULES + rules} for stage, rules in STAGE_RULES.items()
}
"""The rule of each parameter, by stage."""
