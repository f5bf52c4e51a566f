"""What the fused stack's layers stand on: rotations, attention, dropout masks, portions of the head."""

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def test_scaled_rotations_have_the_models_own_frequencies() -> None:
    from finetune_trainer.fused.rotary import compute_frequencies

    scaled = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    for parameters in (scaled, {"rope_type": "default", "rope_theta": 10000.0}):
        config = transformers.LlamaConfig(
            hidden_size=64, num_attention_heads=4, rope_parameters=parameters
        )
        own = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        frequencies, scaling = compute_frequencies(config, head_size=16)
        assert torch.equal(frequencies, own.inv_freq)
        assert scaling == own.attention_scaling


def test_each_kind_of_gemmas_layers_has_its_own_rotation() -> None:
    from finetune_trainer.fused.architecture import rotations_of
    from finetune_trainer.fused.rotary import compute_frequencies

    config = transformers.Gemma3TextConfig(
        head_dim=32,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
        },
    )
    own = transformers.models.gemma3.modeling_gemma3.Gemma3RotaryEmbedding(config)
    assert rotations_of(config).keys() == {"sliding_attention", "full_attention"}
    for kind in rotations_of(config):
        frequencies, scaling = compute_frequencies(config, head_size=32, rotation=kind)
        assert torch.equal(frequencies, getattr(own, f"{kind}_inv_freq"))
        assert scaling == getattr(own, f"{kind}_attention_scaling")


def test_attention_is_torchs_own() -> None:
    from finetune_trainer.fused.attention import AttentionWindow, PlainAttention, measure_error
    from finetune_trainer.fused.ops import HeadShape

    error = measure_error(
        PlainAttention(),
        HeadShape(8, 2, 32),
        attention_windows=(AttentionWindow(0.2), AttentionWindow(0.3, window=1000)),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    assert error < 1e-5


def test_masks_keep_what_they_should_and_differ_between_slots() -> None:
    from finetune_trainer.fused.dropout import Mask, build_factors, count_threshold

    mask = Mask(seed=99, threshold=count_threshold(0.1), first_token=0, slots=3, width=16)
    kept = torch.stack(
        [
            build_factors(mask, slot=slot, tokens=512, columns=4096, dtype=torch.float64) > 0
            for slot in range(3)
        ]
    ).double()
    assert kept.mean((1, 2)).tolist() == pytest.approx([0.9004] * 3, abs=1e-3)
    centred = kept - 0.9004
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(float((centred[one] * centred[other]).mean()) / 0.09) < 3e-3


@pytest.mark.parametrize("rows", [0, 1, 128, 4096, 4097, 12_799])
def test_every_scored_row_is_in_one_portion_of_the_head(rows: int) -> None:
    from finetune_api.micro_batch import LOGIT_ROWS
    from finetune_trainer.fused.head import _portions

    scored = torch.arange(rows)
    portions = _portions(scored)
    assert torch.equal(torch.cat([part for part, _ in portions] or [scored]), scored)
    assert all(len(part) <= LOGIT_ROWS for part, _ in portions)
    assert all(place.start % 128 == 0 for _, place in portions)
