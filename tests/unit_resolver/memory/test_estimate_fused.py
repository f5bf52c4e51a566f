"""The operator's memory model and the trainer's runtime count the same bytes in the fused stack."""

from pathlib import Path

import pytest
import yaml

from finetune_api.resource import Method, Optimizer
from finetune_resolver.memory.estimate import TrainingEngine, Workload, estimate_memory
from finetune_resolver.memory.model_shape import ModelShape, shape_from_config

pytest.importorskip("torch")
from finetune_trainer.engine.tuning import Widths, estimate_fused_cost

SHAPES = {
    name: shape_from_config(model["config"])
    for name, model in yaml.safe_load(
        (Path(__file__).parents[1] / "test_memory_models.yaml").read_text("utf-8")
    ).items()
}
FP32_BYTES = 4


def build_widths(shape: ModelShape) -> Widths:
    return Widths(
        layers=shape.layers,
        hidden=shape.hidden_size,
        intermediate=shape.intermediate_size,
        query=shape.query_size,
        key=shape.key_size,
        heads=shape.attention_heads,
        vocabulary=shape.vocabulary_size,
    )


@pytest.mark.parametrize(
    "name",
    ["llama-3.1-8b", "llama-3.2-1b", "mistral-7b-v0.1", "qwen2.5-7b", "qwen3-8b", "gemma-3-1b"],
)
@pytest.mark.parametrize(
    ("rank", "modules", "columns"),
    [
        pytest.param(16, ("AllLinear",), 256, id="all"),
        pytest.param(64, ("AllLinear",), 448, id="rank 64"),
        pytest.param(8, ("q_proj", "v_proj"), 64, id="q,v"),
    ],
)
def test_both_count_the_same_bytes_in_the_fused_stack(
    name: str, rank: int, modules: tuple[str, ...], columns: int
) -> None:
    shape = SHAPES[name]
    workload = Workload(
        method=Method.LORA,
        rank=rank,
        modules=modules,
        optimizer=Optimizer.ADAMW,
        engine=TrainingEngine.FUSED,
    )
    trainable = shape.lora_parameters(rank=rank, modules=modules)
    cost = estimate_fused_cost(
        build_widths(shape),
        ranks=columns,
        trainable=trainable,
        head_norms=shape.head_norms,
        output_norms=shape.output_norms,
    )
    for layers_kept in (shape.layers, shape.layers // 2, 0):
        ours = estimate_memory(
            shape, workload, tokens_per_micro_batch=8192, layers_kept=layers_kept
        )
        theirs = cost.estimate(tokens=8192, layers_kept=layers_kept, layers=shape.layers)
        # The trainer counts what is allocated after the loading, which brings the adapter's weights.
        counted = ours.activations_bytes + ours.logits_bytes + ours.adapter_bytes
        assert counted - FP32_BYTES * trainable == pytest.approx(theirs, rel=1e-6)


def test_the_stacked_matrices_of_an_8b_take_a_quarter_of_a_gibibyte_more() -> None:
    plain, fused = (
        estimate_memory(
            SHAPES["llama-3.1-8b"],
            Workload(method=Method.LORA, engine=engine),
            tokens_per_micro_batch=0,
        ).weights_bytes
        for engine in (TrainingEngine.UNSLOTH, TrainingEngine.FUSED)
    )
    assert (fused - plain) / 2**30 == pytest.approx(0.27, abs=0.01)


def test_dropout_costs_the_fused_stack_nothing() -> None:
    with_it, without = (
        estimate_memory(
            SHAPES["llama-3.1-8b"],
            Workload(method=Method.LORA, engine=TrainingEngine.FUSED, dropout=dropout),
            tokens_per_micro_batch=8192,
            layers_kept=32,
        )
        for dropout in (True, False)
    )
    assert with_it == without


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_known_model_can_be_counted(name: str) -> None:
    workload = Workload(method=Method.QLORA, engine=TrainingEngine.FUSED)
    estimate = estimate_memory(SHAPES[name], workload, tokens_per_micro_batch=8192, layers_kept=1)
    plain = estimate_memory(
        SHAPES[name], Workload(method=Method.QLORA), tokens_per_micro_batch=8192, layers_kept=1
    )
    assert estimate.weights_bytes > plain.weights_bytes
