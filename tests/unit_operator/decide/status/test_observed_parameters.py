"""What a run showed of each parameter."""

import re
from typing import Any

import pytest

from finetune_api.outcome import (
    CorpusLanguage,
    Evaluation,
    Outcome,
    Published,
    RunSummary,
    Stage,
)
from finetune_api.status import ParameterStatus
from finetune_operator.decide.status.observed_parameters import with_observations

HINDI = {
    "max_seq_length": "2048",
    "batch_size": "8",
    "per_device_train_batch_size": "1",
    "gradient_accumulation_steps": "4",
    "learning_rate": "2e-05",
    "optimizer": '"AdamW"',
    "weight_decay": "0.01",
    "gradient_checkpointing": "true",
    "use_flash_attention": "true",
    "num_train_epochs": "3",
    "max_steps": "-1",
    "evaluation_strategy": '"steps"',
    "save_strategy": '"epoch"',
    "early_stopping_patience": "3",
    "r": "8",
    "lora_alpha": "64",
    "lora_dropout": "0.1",
    "target_modules": '["q_proj", "k_proj", "v_proj", "o_proj"]',
    "bias": '"none"',
    "use_rslora": "false",
}
"""The guide's two tables, as status has their values."""
CORPUS = {
    "tag": "hi",
    "examples": 4000,
    "validation_examples": 200,
    "tokens": 2_000_000,
    "supervised_tokens": 1_500_000,
    "characters": 3_000_000,
    "p50": 300,
    "p95": 900,
    "p99": 1312,
    "longest": 1700,
    "truncated": 0,
}
SUMMARY = {
    "steps": 740,
    "total_steps": 1000,
    "epochs": 2.22,
    "final_loss": 1.8,
    "best_eval_loss": 1.98,
    "best_step": 700,
    "published_step": 740,
    "train_seconds": 5100.5,
    "tokens": 4_100_000,
    "trainable_parameters": 6_815_744,
    "attention": "FlashAttention2",
    "loss_at_start": 2.5,
    "loss_at_end": 1.75,
    "clipped_share": 0.016,
    "sequences_per_step": 4,
    "tokens_per_step": 5540.5,
    "micro_batches_per_step": 1.25,
    "micro_batch_tokens": 8192,
    "evaluations": 7,
    "eval_steps": 100,
}
LOSSES = {
    "base_loss": 2.41,
    "adapter_loss": 2.0,
    "base_bits_per_byte": 1.31,
    "adapter_bits_per_byte": 1.08,
    "examples": 200,
}
WHOLE: dict[str, Any] = {
    "corpus": (CorpusLanguage(**CORPUS),),
    "summary": RunSummary(**SUMMARY),
    "evaluation": Evaluation(**LOSSES),
    "published": Published(
        uri="s3://a/b", manifest_sha256="a" * 64, size_bytes=27_787_264, files=9
    ),
}


def observe_all(values: dict[str, str] | None = None, **parts: Any) -> dict[str, str]:
    outcome = Outcome(exit_code=0, reason="Done", stage=Stage.PUBLISH, message="m", **parts)
    parameters = [
        ParameterStatus(name=name, value=value, rule="R", source="Rule", message="m")
        for name, value in (HINDI | (values or {})).items()
    ]
    return {one.name: one.observation for one in with_observations(parameters, outcome=outcome)}


def observe(name: str, value: str | None = None, **parts: Any) -> str:
    return observe_all({name: value} if value is not None else None, **parts)[name]


def corpus(**changes: Any) -> tuple[CorpusLanguage, ...]:
    return (CorpusLanguage(**CORPUS | changes),)


def summary(**changes: Any) -> RunSummary:
    return RunSummary(**SUMMARY | changes)


EVERY_ROW = {
    "max_seq_length": (
        "p99 of the texts is 1,312 tokens, the longest has 1,700: none was cut; 1,792 would do."
    ),
    "batch_size": (
        "An optimizer step held 4.0 sequences and 5,540 tokens on average; a full batch of the "
        "longest texts would be 16,384 tokens."
    ),
    "per_device_train_batch_size": (
        "The sequences of a step reached the device in 1.2 micro-batches of at most 8,192 tokens."
    ),
    "gradient_accumulation_steps": (
        "The gradients of 1.2 micro-batches of at most 8,192 tokens made one optimizer step of 4.0 "
        "sequences; the split changes memory and speed, not the gradient."
    ),
    "learning_rate": (
        "Training loss went from 2.5000 to 1.7500 nats a token, as means of the first and the last "
        "tenth of the steps. Held-out loss went from 2.4100 to 2.0000 nats a token. The gradient "
        "was clipped in 1.6 % of the steps."
    ),
    "optimizer": (
        "740 steps took 5,100 s with their evaluations, at 804 tokens a second; every loss and "
        "gradient was finite."
    ),
    "weight_decay": "Over 740 steps it took at most 0.015 % off the adapter's weights.",
    "gradient_checkpointing": "The run was on CPU, where no GPU memory had to be saved.",
    "use_flash_attention": "FlashAttention2 ran, at 804 tokens a second.",
    "num_train_epochs": "2.22 epochs were trained in 740 steps.",
    "max_steps": "740 of the 1,000 steps that the epochs make were done.",
    "evaluation_strategy": (
        "The held-out part was evaluated 7 times during training, every 100 steps; its lowest loss "
        "was 1.9800 at step 700."
    ),
    "save_strategy": (
        "The adapter of step 740 of 740 is published; step 700 had the lowest held-out loss."
    ),
    "early_stopping_patience": "It did not end the run.",
    "r": (
        "The adapter has 6,815,744 parameters, and all its published files 26.5 MiB; it saw 0.6 "
        "training tokens for each parameter."
    ),
    "lora_alpha": (
        "The adapter's update counted 8 times. The gradient was clipped in 1.6 % of the steps."
    ),
    "lora_dropout": (
        "Training loss ended at 1.7500 and held-out loss at 2.0000 nats a token, 0.2500 above it."
    ),
    "target_modules": (
        "With adapters in these modules the held-out text took 1.0800 bits a byte, 1.3100 without."
    ),
    "bias": (
        "6,815,744 parameters were trained, none of them of the base model: without the adapter it "
        "is as it was."
    ),
}


@pytest.mark.parametrize("name", EVERY_ROW)
def test_every_row_of_the_guides_hindi_table_has_its_observation(name: str) -> None:
    assert observe_all(**WHOLE)[name] == EVERY_ROW[name]


def test_no_row_of_the_guides_hindi_table_is_left_out() -> None:
    assert set(HINDI) - set(EVERY_ROW) == {"use_rslora"}


CASES = {
    "a length that some texts exceed": (
        observe("max_seq_length", "2048", corpus=corpus(truncated=12, longest=2100)),
        "12 of 4,000 examples are longer than 2,048 tokens and were cut; the longest has 2,100.",
    ),
    "a length that just fits": (
        observe("max_seq_length", "1792", corpus=corpus()),
        "p99 of the texts is 1,312 tokens, the longest has 1,700: none was cut.",
    ),
    "a length that is no number": (observe("max_seq_length", '"x"', corpus=corpus()), ""),
    "a value that status had to cut": (observe("max_seq_length", '["q_…', corpus=corpus()), ""),
    "a batch of a length that is no number": (
        observe("batch_size", '"x"', summary=summary()),
        "An optimizer step held 4.0 sequences and 5,540 tokens on average.",
    ),
    "a GPU whose memory ran out": (
        observe(
            "per_device_train_batch_size",
            summary=summary(
                micro_batch_halvings=1, micro_batches_per_step=1, peak_gpu_memory_bytes=2**33
            ),
        ),
        (
            "The sequences of a step reached the device in 1.0 micro-batch of at most 8,192 tokens, with "
            "a peak of 8.0 GiB of GPU memory; GPU memory ran out once, and micro-batches were halved "
            "each time."
        ),
    ),
    "checkpointing on a GPU": (
        observe("gradient_checkpointing", summary=summary(peak_gpu_memory_bytes=2**33)),
        "The peak of GPU memory was 8.0 GiB, at 804 tokens a second.",
    ),
    "epochs that were cut short": (
        observe("num_train_epochs", summary=summary(stopped_early=True)),
        (
            "2.22 epochs were trained in 740 steps, then early stopping ended the run; the best was "
            "step 700."
        ),
    ),
    "epochs that were cut short without a best": (
        observe("num_train_epochs", summary=summary(stopped_early=True, best_step=None)),
        "2.22 epochs were trained in 740 steps, then early stopping ended the run.",
    ),
    "patience that was used up": (
        observe("early_stopping_patience", summary=summary(stopped_early=True)),
        "It ended the run at step 740 of 1,000.",
    ),
    "steps that were asked for": (
        observe("max_steps", "1000", summary=summary()),
        "740 of the 1,000 steps that were asked for were done.",
    ),
    "attention whose speed was not measured": (
        observe("use_flash_attention", summary=summary(attention="sdpa", train_seconds=0)),
        "sdpa ran.",
    ),
    "attention without a name": (
        observe("use_flash_attention", summary=summary(attention="")),
        "",
    ),
    "no evaluation before the end": (
        observe("evaluation_strategy", summary=summary(evaluations=0, eval_steps=None)),
        "The held-out part was not looked at before the end.",
    ),
    "evaluations without a best": (
        observe("evaluation_strategy", summary=summary(evaluations=1, best_step=None)),
        "The held-out part was evaluated once during training, every 100 steps.",
    ),
    "the best that is published": (
        observe("save_strategy", summary=summary(published_step=700)),
        "The adapter of step 700 of 740 is published, the one with the lowest held-out loss.",
    ),
    "the last that is published where nothing was held out": (
        observe("save_strategy", summary=summary(best_step=None)),
        "The adapter of step 740 of 740 is published.",
    ),
    "a rank whose files were not counted": (
        observe("r", summary=summary(tokens=0)),
        "The adapter has 6,815,744 parameters.",
    ),
    "an alpha over the root of the rank": (
        observe_all({"use_rslora": "true", "r": "16"}, summary=summary(clipped_share=0))[
            "lora_alpha"
        ],
        "The adapter's update counted 16 times. No gradient was clipped.",
    ),
    "dropout with held-out loss below training loss": (
        observe(
            "lora_dropout",
            summary=summary(),
            evaluation=Evaluation(**LOSSES | {"adapter_loss": 1.5}),
        ),
        (
            "Training loss ended at 1.7500 and held-out loss at 1.5000 nats a token, no sign of "
            "learning by heart."
        ),
    ),
    "biases that were trained": (
        observe("bias", '"all"', summary=summary()),
        "6,815,744 parameters were trained, biases of the base model among them.",
    ),
    "a limit of the gradient": (
        observe_all({"max_grad_norm": "1.0"}, summary=summary())["max_grad_norm"],
        "The gradient was clipped in 1.6 % of the steps.",
    ),
    "the part that carries loss": (
        observe_all({"completion_only_loss": "true"}, corpus=corpus())["completion_only_loss"],
        "1,500,000 of 2,000,000 tokens carried loss (75 %).",
    ),
    "a parameter that shows nothing": (observe_all({"seed": "1"}, **WHOLE)["seed"], ""),
}


@pytest.mark.parametrize(("said", "expected"), CASES.values(), ids=CASES)
def test_a_parameter_has_what_the_run_showed_of_it(said: str, expected: str) -> None:
    assert said == expected


def test_of_a_run_that_measured_nothing_nothing_is_said() -> None:
    silent = RunSummary(steps=0, total_steps=0, epochs=0)
    nothing: dict[str, Any] = {}
    for parts in (nothing, {"summary": silent}):
        assert set(observe_all(**parts).values()) == {""}


def test_a_summary_of_an_older_trainer_is_read() -> None:
    old = RunSummary(steps=740, total_steps=1000, epochs=2.22, trainable_parameters=5)
    said = observe_all(summary=old)
    reported = {name for name, text in said.items() if text}
    assert reported == {
        "bias",
        "early_stopping_patience",
        "gradient_checkpointing",
        "max_steps",
        "num_train_epochs",
        "r",
        "weight_decay",
    }
    assert not re.search(r"None|nan|\b0\.0\b", " ".join(said.values()))
