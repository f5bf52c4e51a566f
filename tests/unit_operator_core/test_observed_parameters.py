"""What a run showed of each parameter."""

from typing import Any

import pytest

from finetune_api.outcome import CorpusLanguage, Evaluation, Outcome, RunSummary, Stage
from finetune_api.status import ParameterStatus
from finetune_operator.observed_parameters import with_observations

CORPUS = {
    "tag": "sw",
    "examples": 4000,
    "validation_examples": 200,
    "tokens": 1,
    "supervised_tokens": 1,
    "characters": 1,
    "p50": 300,
    "p95": 900,
    "p99": 1312,
    "longest": 2100,
    "truncated": 0,
}
SUMMARY = {"steps": 740, "total_steps": 1000, "epochs": 2.22}


def observe(name: str, value: str, **parts: Any) -> str:
    outcome = Outcome(exit_code=0, reason="Done", stage=Stage.PUBLISH, message="m", **parts)
    parameter = ParameterStatus(name=name, value=value, rule="R", source="Rule", message="m")
    return with_observations([parameter], outcome=outcome)[0].observation


def corpus(**changes: Any) -> tuple[CorpusLanguage, ...]:
    return (CorpusLanguage(**CORPUS | changes),)


def summary(**changes: Any) -> RunSummary:
    return RunSummary(**SUMMARY | changes)


CASES = {
    "a length that some texts exceed": (
        observe("max_seq_length", "2048", corpus=corpus(truncated=12)),
        "12 of 4,000 examples are longer than 2,048 tokens and were cut; the longest has 2,100.",
    ),
    "a length that none needs": (
        observe("max_seq_length", "4096", corpus=corpus()),
        "p99 of the texts is 1,312 tokens, the longest has 2,100: none was cut; 2,304 would do.",
    ),
    "a length that just fits": (
        observe("max_seq_length", "2304", corpus=corpus()),
        "p99 of the texts is 1,312 tokens, the longest has 2,100: none was cut.",
    ),
    "a length of which nothing was measured": (observe("max_seq_length", "4096"), ""),
    "a length that is no number": (observe("max_seq_length", '"x"', corpus=corpus()), ""),
    "all epochs": (
        observe("num_train_epochs", "3", summary=summary()),
        "2.22 epochs were trained in 740 steps.",
    ),
    "epochs that were cut short": (
        observe("num_train_epochs", "3", summary=summary(stopped_early=True, best_step=700)),
        (
            "2.22 epochs were trained in 740 steps, then early stopping ended the run; the best was "
            "step 700."
        ),
    ),
    "epochs that were cut short without a best": (
        observe("num_train_epochs", "3", summary=summary(stopped_early=True)),
        "2.22 epochs were trained in 740 steps, then early stopping ended the run.",
    ),
    "no steps": (observe("num_train_epochs", "3", summary=summary(steps=0)), ""),
    "patience that was used up": (
        observe("early_stopping_patience", "3", summary=summary(stopped_early=True)),
        "It ended the run at step 740 of 1,000.",
    ),
    "patience that was not": (
        observe("early_stopping_patience", "3", summary=summary()),
        "It did not end the run.",
    ),
    "patience without a run": (observe("early_stopping_patience", "3"), ""),
    "attention": (
        observe("use_flash_attention", "true", summary=summary(attention="sdpa")),
        "sdpa ran.",
    ),
    "attention that nobody named": (observe("use_flash_attention", "true"), ""),
    "a learning rate": (
        observe(
            "learning_rate",
            "2e-05",
            evaluation=Evaluation(
                base_loss=2.5,
                adapter_loss=2.25,
                base_bits_per_byte=1,
                adapter_bits_per_byte=1,
                examples=9,
            ),
        ),
        "Held-out loss went from 2.5000 to 2.2500 nats a token.",
    ),
    "a learning rate without evaluation": (observe("learning_rate", "2e-05"), ""),
    "a parameter that shows nothing": (observe("seed", "1", summary=summary()), ""),
}


@pytest.mark.parametrize(("said", "expected"), CASES.values(), ids=CASES)
def test_a_parameter_is_told_what_the_run_showed_of_it(said: str, expected: str) -> None:
    assert said == expected
