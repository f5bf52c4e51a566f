"""One row of a stock engine, TRL with PEFT or Unsloth, in a process of its own.

    python -m tests.bench.gpu.stock ROW.json RESULT.json

Started by `run`. Each engine is what its defaults make of it, but for what the rows have in common:
model, documents, batch, adapter, optimizer and learning rate. The documents come as token ids, in
the order in which this trainer takes them.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.steps.sampler import DataOrder
from tests.bench.gpu.corpus import Corpus, build_corpus
from tests.bench.gpu.jobs import Job, Measured
from tests.bench.gpu.suite import SEED, EngineName, Row

DROPS_ON_CPU = "TRL 1.15 computes its loss in a GPU kernel: transformers' Trainer stood in for it."


@dataclass
class Clock:
    """When each step was done and what its loss was; `on_log` is called once a step."""

    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def note(self, logs: dict[str, float]) -> None:
        """Take down one step; its loss was read from the device, so the step is over."""
        if "loss" in logs:
            self.ends.append(time.monotonic())
            self.losses.append(logs["loss"])


def build_row_corpus(row: Row, steps: int) -> Corpus:
    """Return the documents of a row, `steps` full steps of them."""
    return build_corpus(
        steps * row.batch, vocabulary=row.shape.vocab_size, longest=row.longest, mean=row.mean
    )


def order_documents(corpus: Corpus, *, row: Row, steps: int) -> list[tuple[int, ...]]:
    """Return the documents of the first `steps` steps, as this trainer's order has them."""
    order = DataOrder(rows=len(corpus.documents), sequences_per_step=row.batch, seed=SEED)
    return [corpus.documents[place] for step in range(steps) for place in order.rows_of(step)]


def run_row(job: Job) -> Measured:
    """Train one row and return what was seen."""
    on_gpu = job.device != "cpu"
    load = load_unsloth if job.row.engine is EngineName.UNSLOTH else load_trl
    network, tokenizer = load(job, on_gpu=on_gpu)
    documents = order_documents(
        build_row_corpus(job.row, job.corpus_steps), row=job.row, steps=job.row.steps
    )
    clock = Clock()
    trainer = build_trainer(job, network, tokenizer, documents, clock=clock)
    trainer.train()
    import torch

    return Measured(
        step_ends=tuple(end - job.started for end in clock.ends),
        step_tokens=tuple(
            sum(len(each) for each in documents[first : first + job.row.batch])
            for first in range(0, len(documents), job.row.batch)
        ),
        losses=tuple(clock.losses),
        peak_bytes=torch.cuda.max_memory_reserved() if on_gpu else None,
        note="" if on_gpu or job.row.engine is not EngineName.TRL else DROPS_ON_CPU,
    )


def load_unsloth(job: Job, *, on_gpu: bool) -> tuple[Any, Any]:
    """Load as Unsloth's own examples do."""
    import unsloth

    row = job.row
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        model_name=str(job.model),
        max_seq_length=row.longest,
        dtype=None if on_gpu else _dtype(on_gpu=on_gpu),
        load_in_4bit=row.method == "QLoRA",
        use_exact_model_name=True,
    )
    network = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=row.rank,
        lora_alpha=row.rank,
        lora_dropout=row.dropout,
        target_modules=list(row.targets),
        bias="none",
        use_gradient_checkpointing="unsloth" if on_gpu else False,
        random_state=SEED,
    )
    return network, tokenizer


def load_trl(job: Job, *, on_gpu: bool) -> tuple[Any, Any]:
    """Load with transformers and put PEFT's adapter on it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    row = job.row
    torch.manual_seed(SEED)
    quantization = None
    if row.method == "QLoRA":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = AutoModelForCausalLM.from_pretrained(
        str(job.model),
        dtype=_dtype(on_gpu=on_gpu),
        attn_implementation="sdpa",
        device_map={"": 0 if on_gpu else "cpu"},
        quantization_config=quantization,
    )
    adapter = LoraConfig(
        r=row.rank,
        lora_alpha=row.rank,
        lora_dropout=row.dropout,
        target_modules=list(row.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapter), AutoTokenizer.from_pretrained(str(job.model))


def build_trainer(
    job: Job, network: Any, tokenizer: Any, documents: list[tuple[int, ...]], *, clock: Clock
) -> Any:
    """Return the engine's trainer over the documents, in their order."""
    from transformers import TrainerCallback

    class Noting(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any
        ) -> None:
            clock.note(logs or {})

    on_gpu = job.device != "cpu"
    shared = _shared_arguments(job, on_gpu=on_gpu)
    if not on_gpu and job.row.engine is EngineName.TRL:
        return _build_plain_trainer(network, documents, shared, callback=Noting())
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    if on_gpu and job.row.engine is EngineName.TRL:
        # What is recomputed is recomputed for its gradient, which a frozen embedding has none of.
        network.enable_input_require_grads()
    return SFTTrainer(
        model=network,
        args=SFTConfig(
            **shared,
            max_length=job.row.longest,
            packing=False,
            gradient_checkpointing=on_gpu,
        ),
        train_dataset=Dataset.from_dict({"input_ids": [list(each) for each in documents]}),
        processing_class=tokenizer,
        callbacks=[Noting()],
    )


def _shared_arguments(job: Job, *, on_gpu: bool) -> dict[str, Any]:
    row = job.row
    return {
        "output_dir": str(job.folder / "out"),
        "per_device_train_batch_size": row.micro_batch,
        "gradient_accumulation_steps": row.accumulation,
        "max_steps": row.steps,
        "learning_rate": row.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": SEED,
        "train_sampling_strategy": "sequential",
    }


def _build_plain_trainer(
    network: Any, documents: list[tuple[int, ...]], shared: dict[str, Any], *, callback: Any
) -> Any:
    import torch
    from transformers import Trainer, TrainingArguments

    def collate(rows: list[tuple[int, ...]]) -> dict[str, Any]:
        tensors = [torch.tensor(row) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": pad(tensors, batch_first=True),
            "attention_mask": pad([torch.ones_like(each) for each in tensors], batch_first=True),
            "labels": pad(tensors, batch_first=True, padding_value=-100),
        }

    return Trainer(
        model=network,
        args=TrainingArguments(**shared, remove_unused_columns=False),
        train_dataset=documents,
        data_collator=collate,
        callbacks=[callback],
    )


def _dtype(*, on_gpu: bool) -> Any:
    import torch

    return torch.bfloat16 if on_gpu else torch.float32


def main() -> int:
    """Run the job that the first argument names and write its result where the second says."""
    # Before any import of Unsloth: presence counts, whatever the value.
    os.environ.update({"UNSLOTH_DISABLE_STATISTICS": "1", "HF_HUB_OFFLINE": "1"})
    job = Job.load(Path(sys.argv[1]))
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(job.folder / "unsloth")
    if job.device == "cpu":
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    measured = run_row(job)
    Path(sys.argv[2]).write_text(json.dumps(measured.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
