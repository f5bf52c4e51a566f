"""What a rule returns and which rule decides, beside the tables that the goldens show."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.resource import Method, TrainingStage
from finetune_resolver.memory.model_shape import shape_from_config
from finetune_resolver.policies.evidence import RULES as EVIDENCE
from finetune_resolver.policies.evidence_formulas import (
    USUAL_RANK,
    divide_batch,
    fit_batch_share,
    least_rank,
)
from finetune_resolver.policies.facts import Facts
from finetune_resolver.policies.guide import RULES
from finetune_resolver.policies.rule import (
    EvidenceRule,
    TraitRule,
    group_rules,
    match_evidence,
    match_rules,
)

SHAPE = shape_from_config(
    yaml.safe_load((Path(__file__).parents[1] / "test_memory_models.yaml").read_text("utf-8"))[
        "llama-3.2-1b"
    ]["config"]
)
FACTS = Facts(
    stage=TrainingStage.INSTRUCTION,
    method=Method.LORA,
    world=2,
    model_name="llama-3.2-1b",
    shape=SHAPE,
    parameters=None,
    has_gpu=True,
    gpu_memory_bytes=80 * 2**30,
    examples=1000,
    tokens=10_000_000,
    unique_tokens=None,
    english_tokens=None,
    p99_tokens=None,
    context=None,
)
VALUES: dict[str, Any] = {
    "batch_size": 32,
    "max_seq_length": 2048,
    "target_modules": ["q_proj", "v_proj"],
    "lora_r": 16,
    "lora_dropout": 0.0,
    "gradient_checkpointing": True,
}


def test_a_list_that_a_rule_returns_is_a_copy() -> None:
    rule = TraitRule(
        id="X1", parameter="target_modules", when=lambda _: True, value=["q_proj"], message=""
    )
    first = rule.decide({})
    assert isinstance(first, list)
    first.append("v_proj")
    assert rule.decide({}) == ["q_proj"]


def test_a_parameter_whose_rules_all_miss_has_the_last_one() -> None:
    never = TraitRule(id="X1", parameter="p", when=lambda _: False, value=1, message="")
    last = replace(never, id="X2", value=2)
    axes: Any = None
    assert match_rules(axes, groups=group_rules([never, last])) == {"p": last}


def test_evidence_whose_rules_all_miss_has_the_last_one() -> None:
    never = EvidenceRule(
        id="E1", parameter="p", when=lambda _, __: False, value=1, message="", reference=""
    )
    last = replace(never, id="E2", value=2)
    assert match_evidence((never, last), facts=FACTS, values={}) is last


def test_the_last_rule_of_every_parameter_matches_always() -> None:
    axes: Any = None
    for rules in group_rules(RULES).values():
        assert rules[-1].when(axes) is True
    for evidence in group_rules(EVIDENCE).values():
        assert evidence[-1].when(FACTS, {}) is True


@pytest.mark.parametrize("facts", [FACTS._replace(tokens=None), FACTS._replace(shape=None)])
def test_the_rank_is_the_usual_one_where_capacity_is_unknown(facts: Facts) -> None:
    assert least_rank(facts, VALUES) == USUAL_RANK


def test_the_rank_has_as_many_weights_as_there_are_tokens() -> None:
    rank = least_rank(FACTS, VALUES)
    a_rank = SHAPE.lora_parameters(rank=1, modules=("q_proj", "v_proj"))
    assert rank * a_rank >= 10_000_000 > rank // 2 * a_rank


@pytest.mark.parametrize(
    "facts", [FACTS._replace(gpu_memory_bytes=None), FACTS._replace(shape=None)]
)
def test_the_share_is_the_whole_of_a_worker_where_memory_is_unknown(facts: Facts) -> None:
    assert fit_batch_share(facts, VALUES) == divide_batch(facts, VALUES) == 16
