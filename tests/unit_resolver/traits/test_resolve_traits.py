"""What holds over the whole space of traits: invariants, dependencies, reachability.

The rule layer is called bare: 78,732 combinations take a few seconds.
"""

import random
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from typing import Any

import pytest

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
from finetune_resolver.policies.apply_policy import decide_values
from finetune_resolver.policies.guide import GROUPS, RULES
from finetune_resolver.policies.rule import always, match_rules
from finetune_resolver.traits.trait import AXIS_NAMES, Axes, MorphologyKind

VALUES: dict[str, tuple[Any, ...]] = {
    "token_density": (None, *TokenDensity),
    "morphology": (None, *Morphology),
    "morphology_kind": (None, *MorphologyKind),
    "corpus": (None, *Corpus),
    "resource_level": (None, *ResourceLevel),
    "documents": (None, *Documents),
    "syntax_distance": (None, *SyntaxDistance),
    "code_switching": (None, False, True),
    "model_depth": (None, *ModelDepth),
    "gpu_memory": (None, *GpuMemoryClass),
}
DEPENDS: dict[str, set[str]] = {
    "max_seq_length": {"token_density", "corpus", "documents"},
    "batch_size": {"token_density"},
    "per_device_train_batch_size": {"token_density", "gpu_memory"},
    "gradient_accumulation_steps": {"token_density", "gpu_memory"},
    "learning_rate": {"corpus", "resource_level"},
    "weight_decay": {"token_density", "morphology", "morphology_kind", "corpus"},
    "trainer.lora_alpha": {"corpus"},
    "lora_dropout": {"corpus"},
    "r": {"corpus"},
    "lora_alpha": {"morphology", "morphology_kind", "corpus", "code_switching"},
    "target_modules": {
        "morphology",
        "morphology_kind",
        "syntax_distance",
        "code_switching",
        "model_depth",
    },
    "optimizer": set(),
    "gradient_checkpointing": set(),
    "use_flash_attention": set(),
    "num_train_epochs": set(),
    "max_steps": set(),
    "evaluation_strategy": set(),
    "save_strategy": set(),
    "early_stopping_patience": set(),
    "bias": set(),
    "task_type": set(),
}
"""Which axes a parameter may follow; morphology's kind belongs to morphology."""


def decide(axes: Axes) -> dict[str, Any]:
    return decide_values(match_rules(axes, groups=GROUPS), overrides={})


def every_combination() -> Iterator[Axes]:
    for values in product(*VALUES.values()):
        yield Axes(*values)


def is_complex_inflectional(axes: Axes) -> bool:
    return axes.morphology == "Complex" and axes.morphology_kind != "Orthographic"


def broken_invariants(axes: Axes, value: dict[str, Any]) -> list[int]:
    low = axes.corpus == "Small" or axes.resource_level == "Low"
    rich = is_complex_inflectional(axes)
    holds = {
        1: axes.token_density != "Dense" or value["max_seq_length"] in (2048, 4096),
        2: axes.token_density != "Light" or 4096 <= value["max_seq_length"] <= 8192,
        3: 2e-5 <= value["learning_rate"] <= 2e-4,
        4: not low or value["learning_rate"] == 2e-5,
        5: value["weight_decay"] in (0.01, 0.001),
        6: not rich or 32 <= value["lora_alpha"] <= 64,
        7: rich or 16 <= value["lora_alpha"] <= 32,
        8: value["r"] in (8, 16, 32),
        9: value["lora_dropout"] in (0.1, 0.05),
        10: {"q_proj", "v_proj"} <= set(value["target_modules"]),
    }
    return [number for number, held in holds.items() if not held]


@pytest.fixture(scope="module")
def space() -> list[tuple[Axes, dict[str, Any], frozenset[str]]]:
    """Every combination with its values and the rules that decided them."""
    table = []
    for axes in every_combination():
        rules = match_rules(axes, groups=GROUPS)
        ids = frozenset(rule.id for rule in rules.values())
        table.append((axes, decide_values(rules, overrides={}), ids))
    return table


def test_the_space_has_78732_combinations(space):
    assert len(space) == 78_732


def test_the_ten_invariants_hold_everywhere(space):
    assert [(axes, b) for axes, value, _ in space if (b := broken_invariants(axes, value))] == []


def test_every_parameter_is_decided_by_a_rule_everywhere(space):
    assert {(len(value), len(ids)) for _, value, ids in space} == {(21, 21)}


def test_every_rule_decides_somewhere(space):
    reached = frozenset().union(*(ids for _, _, ids in space))
    assert reached == {rule.id for rule in RULES}


def test_rule_ids_are_those_of_the_decision_table():
    assert [rule.id for rule in RULES] == [
        "MSL-2",
        "MSL-1",
        "MSL-3",
        "MSL-4",
        "MSL-0",
        "BS-1",
        "BS-2",
        "BS-0",
        "PDB-1",
        "PDB-0",
        "GA-1",
        "GA-2",
        "GA-0",
        "LR-1",
        "LR-3",
        "LR-2",
        "LR-0",
        "OPT-1",
        "WD-1",
        "WD-2",
        "WD-0",
        "GC-1",
        "FA-1",
        "EP-1",
        "EP-2",
        "EV-1",
        "EV-2",
        "EV-3",
        "R-1",
        "R-2",
        "R-3",
        "R-0",
        "TA-1",
        "TA-2",
        "PA-1",
        "PA-2",
        "PA-3",
        "PA-4",
        "DO-1",
        "DO-2",
        "TM-2",
        "TM-1",
        "TM-3",
        "TM-4",
        "TM-0",
        "BI-1",
        "TT-1",
    ]


def test_changing_one_axis_changes_only_the_parameters_that_depend_on_it():
    chance = random.Random(20_000)
    wrong = []
    for _ in range(20_000):
        before = Axes(*(chance.choice(values) for values in VALUES.values()))
        axis = chance.choice(list(VALUES))
        after = replace(before, **{axis: chance.choice(VALUES[axis])})
        old, new = decide(before), decide(after)
        wrong += [
            (axis, name) for name in old if old[name] != new[name] and axis not in DEPENDS[name]
        ]
    assert wrong == []


@pytest.mark.parametrize("parameter", [name for name, axes in DEPENDS.items() if axes])
def test_parameter_follows_every_axis_it_is_said_to(parameter):
    assert {axis for axis in VALUES if follows(parameter, axis)} == DEPENDS[parameter]


def follows(parameter: str, axis: str) -> bool:
    """Whether some single change of the axis changes the parameter, in the rule's own few axes."""
    others = [name for name in VALUES if name in DEPENDS[parameter] and name != axis]
    for values in product(*(VALUES[name] for name in others)):
        fixed = Axes(**dict(zip(others, values, strict=True)))
        seen = {str(decide(replace(fixed, **{axis: value}))[parameter]) for value in VALUES[axis]}
        if len(seen) > 1:
            return True
    return False


def test_rules_name_only_axes_that_their_parameter_depends_on():
    wrong = {rule.id for rule in RULES if not set(rule.axes) <= DEPENDS[rule.parameter]}
    assert wrong == set()


def test_every_axis_has_a_name_as_the_resource_spells_it():
    assert [field.name for field in fields(Axes)] == list(AXIS_NAMES) == list(VALUES)


@pytest.mark.parametrize("parameter", GROUPS)
def test_only_the_last_row_of_a_parameter_matches_always(parameter):
    assert always(Axes())
    assert [rule.when is always for rule in GROUPS[parameter]].index(True) == (
        len(GROUPS[parameter]) - 1
    )
