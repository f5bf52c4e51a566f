"""Twenty-one corpora under both policies: what was measured in, every parameter out.

A folder a case in `tests/cases/corpora`: `corpus.yaml` holds spec and profile, `guide.yaml` and
`evidence.yaml` what each policy makes of them. The texts are synthetic, the numbers like those of real
ones. After a wanted change run with UPDATE_GOLDEN=1 and read the difference as a user would.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.profile import LanguageProfile, Profile, TokenizerProfile, pick_config_facts
from finetune_api.resource import LanguageFinetuneSpec
from finetune_resolver import Resolution, build_measurements, resolve
from finetune_resolver.decisions.build import build_training, trait_text
from finetune_resolver.memory.estimate import GB

CASES = sorted((Path(__file__).parents[1] / "cases" / "corpora").iterdir())
MODELS = yaml.safe_load(
    Path(__file__).with_name("test_memory_models.yaml").read_text(encoding="utf-8")
)
BOTH = pytest.mark.parametrize("policy", ["Guide", "Evidence"])
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@cache
def resolve_case(case: Path, policy: str) -> Resolution:
    given = yaml.safe_load((case / "corpus.yaml").read_text(encoding="utf-8"))
    texts = [LanguageProfile.model_validate(one["profile"]) for one in given["languages"]]
    languages = [
        {"tag": text.tag, "traits": one["traits"], "dataset": {"uri": "s3://corpora/text/"}}
        for text, one in zip(texts, given["languages"], strict=True)
    ]
    fields = {"languages": languages, "output": {"uri": "s3://adapters/"}, "policy": policy}
    spec = LanguageFinetuneSpec.model_validate(given["spec"] | fields)
    profile = Profile(
        tokenizer=TokenizerProfile(sha256="0" * 64, vocabulary=1),
        model=pick_config_facts(MODELS[given["model"]]["config"]),
        languages=tuple(texts),
    )
    return resolve(spec, measured=build_measurements(spec, profile))


def describe(resolution: Resolution) -> dict[str, Any]:
    """Return what a reader compares: short texts, nothing computed again."""
    memory = resolution.predicted_memory
    return {
        "method": f"{resolution.method.value} ({resolution.method.rule})",
        "totalSteps": resolution.total_steps,
        "predictedMemoryGB": None if memory is None else round(memory.total_bytes / GB, 1),
        "traits": {t.name: f"{trait_text(t)} ({t.source})" for t in resolution.traits},
        "parameters": {d.parameter: _decision(d) for d in resolution.decisions},
        "warnings": [f"{a.id}: {a.message}" for a in resolution.warnings],
    }


def _decision(decision: Any) -> str:
    other = decision.alternative
    beside = f"; {other.policy}: {json.dumps(other.value)} ({other.rule})" if other else ""
    return f"{json.dumps(decision.value)} ({decision.rule}){beside}"


@BOTH
@EACH
def test_a_corpus_resolves_as_its_golden_file_says(case: Path, policy: str) -> None:
    golden = case / f"{policy.lower()}.yaml"
    found = describe(resolve_case(case, policy))
    if os.environ.get("UPDATE_GOLDEN"):
        text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120)
        golden.write_text(text, encoding="utf-8")
    assert found == yaml.safe_load(golden.read_text(encoding="utf-8"))


@BOTH
@EACH
def test_a_corpus_makes_a_plan_whose_reasons_are_all_said(case: Path, policy: str) -> None:
    resolution = resolve_case(case, policy)
    build_training(resolution)
    assert all(d.message and d.rule for d in resolution.decisions)
    assert all(d.reference for d in resolution.decisions if d.rule.startswith("E-"))


@EACH
def test_an_alternative_is_what_the_other_policy_really_decides(case: Path) -> None:
    policies = [resolve_case(case, "Guide"), resolve_case(case, "Evidence")]
    if policies[0].method.value is not policies[1].method.value:
        return
    for mine, other in (policies, reversed(policies)):
        for decision in mine.decisions:
            if decision.alternative is not None and decision.rule != "OVERRIDE":
                assert decision.alternative.value == other.value(decision.parameter)


def test_there_are_twenty_corpora_and_more() -> None:
    assert len(CASES) >= 20
