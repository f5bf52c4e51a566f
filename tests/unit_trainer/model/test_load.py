"""Loading: what the plan says is what is there, or it is refused in words."""

from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import DataInvalid, OutOfGpuMemory, PlanInvalid
from tests.unit_trainer.tiny import TARGETS, build_plan, write_model

pytestmark = pytest.mark.torch
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def load(folder: Path, **changes: Any) -> Any:
    from finetune_trainer.model import load as model

    return model.load(build_plan(**changes), folder=folder)


def test_the_adapter_is_what_the_plan_says(folder: Path) -> None:
    loaded = load(folder, lora__target_modules=["q_proj", "v_proj"], lora__use_rslora=True)
    config = loaded.network.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora) == (8, 16, True)
    assert set(config.target_modules) == {"q_proj", "v_proj"}
    # Two layers, rank 8, q 64x64 and v 32x64: (64 + 64 + 64 + 32) * 8 * 2.
    assert loaded.trainable_parameters == 3584
    assert loaded.dtype.is_floating_point
    assert str(loaded.dtype) == "torch.float32"
    assert loaded.attention == "sdpa"


def test_all_linear_is_every_linear_module_but_the_head(folder: Path) -> None:
    loaded = load(folder, lora__target_modules=["AllLinear"])
    assert loaded.target_modules == tuple(sorted(TARGETS))


@pytest.mark.parametrize("wanted", [["c_attn"], ["q_proj", "c_attn"]], ids=["all", "some"])
def test_modules_that_the_model_lacks_are_refused_with_its_own_list(
    folder: Path, wanted: list[str]
) -> None:
    with pytest.raises(PlanInvalid) as caught:
        load(folder, lora__target_modules=wanted)
    assert caught.value.message == (
        "parameters.lora.targetModules names c_attn, which the model hf://org/tiny lacks: its linear"
        " modules are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj; name some of"
        " these or AllLinear and apply again."
    )


def test_the_seed_decides_the_first_adapter(folder: Path) -> None:
    first, same, other = (load(folder, training__seed=seed).adapter_state() for seed in (1, 1, 2))
    name = next(name for name in first if "lora_A" in name)
    assert first[name].equal(same[name])
    assert not first[name].equal(other[name])


def test_a_broken_model_is_told_as_the_models_fault(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(DataInvalid) as caught:
        load(tmp_path)
    assert caught.value.reason == "ModelInvalid"
    assert caught.value.message.startswith("The model hf://org/tiny cannot be loaded (")
    assert str(tmp_path) not in caught.value.message


def test_a_gpu_that_the_model_or_its_adapter_fills_is_told() -> None:
    import torch

    from finetune_trainer.model.load import told_when_too_large

    with pytest.raises(OutOfGpuMemory) as caught, told_when_too_large(build_plan()):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert caught.value.message == (
        "The GPU's memory does not hold the model hf://org/tiny with its adapter: choose method QLoRA,"
        " a smaller model or lora.r, or a GPU with more memory, and apply again."
    )


def test_a_state_that_was_put_back_is_the_earlier_model(folder: Path) -> None:
    import torch

    loaded = load(folder)
    before = loaded.adapter_state()
    with torch.no_grad():
        for parameter in loaded.trainable():
            parameter.add_(1.0)
    loaded.restore_adapter(before)
    after = loaded.adapter_state()
    assert all(after[name].equal(value) for name, value in before.items())


def test_without_the_adapter_the_model_is_the_base(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = load(folder)
    with torch.no_grad():
        for parameter in loaded.trainable():
            parameter.fill_(0.1)
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    loaded.network.eval()
    with torch.no_grad():
        expected = plain(ids).logits
        assert not torch.allclose(loaded.network(ids).logits, expected)
        with loaded.engine.base_only():
            assert torch.allclose(loaded.network(ids).logits, expected, atol=1e-6)
