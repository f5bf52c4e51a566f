"""The fused stack's own backward against autograd in float64, on real classes of transformers and PEFT."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LENGTHS = (9, 1, 17, 5)
WINDOW = 6
VOCABULARY = 211
TOLERANCE = 1e-6
KINDS: dict[str, Any] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    # Two documents are longer than the windows.
    "mistral": (
        transformers.MistralConfig,
        transformers.MistralForCausalLM,
        {"sliding_window": WINDOW},
    ),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "qwen3": (
        transformers.Qwen3Config,
        transformers.Qwen3ForCausalLM,
        {
            "head_dim": 32,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
        },
    ),
    "gemma3": (
        transformers.Gemma3TextConfig,
        transformers.Gemma3ForCausalLM,
        {
            "head_dim": 32,
            # None of them what would follow from the other sizes.
            "query_pre_attn_scalar": 20,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
            },
        },
    ),
}
"""What is built otherwise in each is in its changes: windows, head norms, scales, rotations."""


@dataclass(frozen=True)
class Text:
    """A document whose every token is scored."""

    input_ids: tuple[int, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        return self.input_ids


def build_network(
    kind: str = "llama",
    *,
    targets: tuple[str, ...] = ALL,
    rank: int = 8,
    alpha: int = 24,
    dropout: float = 0.0,
    layers: int = 3,
) -> Any:
    """Return a float64 PEFT model whose B, norms and biases are random, not at their usual start."""
    config_type, model_type, changes = KINDS[kind]
    if "layer_types" in changes:
        changes = changes | {"layer_types": changes["layer_types"][:layers]}
    torch.manual_seed(0)
    config = config_type(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        attn_implementation="eager",
        **changes,
    )
    base = model_type(config).double()
    lora = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
    )
    network = peft.get_peft_model(base, lora).double()
    for name, parameter in network.named_parameters():
        if "lora_B" in name or name.endswith("bias"):
            parameter.data.normal_(0, 0.1)
        if "norm" in name:
            # Gemma adds one to it.
            least = -0.5 if kind == "gemma3" else 0.5
            parameter.data.uniform_(least, least + 1)
    return network


def build_texts() -> list[Text]:
    draw = torch.Generator().manual_seed(1)
    return [
        Text(tuple(torch.randint(0, VOCABULARY, (length,), generator=draw).tolist()))
        for length in LENGTHS
    ]


def gradients(network: Any) -> dict[str, Any]:
    found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


def measure_by_autograd(network: Any, texts: list[Text], *, divisor: int) -> tuple[float, Any]:
    """Return loss and gradients of the model's own forward, one document at a time."""
    total = 0.0
    for text in texts:
        if len(text.input_ids) == 1:
            continue
        ids = torch.tensor([text.input_ids])
        logits = network(ids).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum") / divisor
        loss.backward()
        total += loss.item()
    return total, gradients(network)


def build_engine(network: Any) -> Any:
    from finetune_trainer.fused.engine import FusedEngine

    return FusedEngine(network, device=torch.device("cpu"))


def micro_batch_of(texts: list[Text], *, first_token: int = 0) -> Any:
    from finetune_trainer.steps.micro_batches import MicroBatch

    return MicroBatch(tuple(texts), first_token)


def worst_error(found: dict[str, Any], expected: dict[str, Any]) -> float:
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - value).norm() / value.norm()) for name, value in expected.items()
    )


@pytest.mark.parametrize("kept", [3, 1, 0], ids=["all kept", "one kept", "all recomputed"])
@pytest.mark.parametrize(
    ("kind", "targets", "rank"),
    [
        pytest.param("llama", ALL, 8, id="llama all"),
        pytest.param("llama", ("q_proj", "v_proj"), 16, id="llama q and v"),
        pytest.param("llama", ("o_proj", "down_proj", "up_proj"), 5, id="llama mixed, odd rank"),
        pytest.param(
            "mistral", ("q_proj", "k_proj", "v_proj", "o_proj"), 8, id="mistral attention"
        ),
        pytest.param("qwen2", ALL, 8, id="qwen2 with biases"),
        pytest.param("qwen3", ALL, 8, id="qwen3 with head norms"),
        pytest.param("gemma3", ALL, 8, id="gemma3 all"),
        pytest.param("gemma3", ("q_proj", "v_proj"), 16, id="gemma3 q and v"),
        pytest.param("gemma3", ("o_proj", "down_proj", "up_proj"), 5, id="gemma3 mixed, odd rank"),
    ],
)
def test_loss_and_gradients_equal_autograds(
    kind: str, targets: tuple[str, ...], rank: int, kept: int
) -> None:
    network, texts = build_network(kind, targets=targets, rank=rank), build_texts()
    expected_loss, expected = measure_by_autograd(network, texts, divisor=30)
    engine = build_engine(network)
    engine.stack.keep(kept)
    loss = engine.sum_of_losses(micro_batch_of(texts), divisor=30)
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss, rel=TOLERANCE)
    # transformers computes norms and softmax in fp32. Gemma's six norms a layer add that up: with those
    # in float64 as well the error was 4e-7 (measured).
    allowed = 2 * TOLERANCE if kind == "gemma3" else TOLERANCE
    assert worst_error(gradients(network), expected) < allowed


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_the_models_own_forward_still_works_over_the_stacked_weights(kind: str) -> None:
    network, texts = build_network(kind), build_texts()
    expected_loss, expected = measure_by_autograd(network, texts, divisor=30)
    engine = build_engine(network)
    assert measure_by_autograd(network, texts, divisor=30)[0] == pytest.approx(expected_loss)
    engine.release()
    loss, found = measure_by_autograd(network, texts, divisor=30)
    assert loss == pytest.approx(expected_loss)
    assert worst_error(found, expected) < TOLERANCE
    assert all(parameter.is_contiguous() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("kind", "target", "scale", "drawn"),
    [
        ("llama", "o_proj", 1, 4e-4),
        ("llama", "down_proj", 1, 8e-4),
        # Gemma multiplies its embeddings by 8 here, and its norms make a small output large.
        ("gemma3", "o_proj", 8, 5e-5),
        ("gemma3", "down_proj", 8, 5e-5),
    ],
)
def test_in_16_bits_an_adapter_moves_a_stream_whose_step_is_larger_than_its_part(
    kind: str, target: str, scale: float, drawn: float
) -> None:
    """As both parts of a projection are added at once, what is rounded is right on average."""

    def move(dtype: Any) -> Any:
        network = build_network(kind, targets=(target,), layers=1)
        # A stream of about 1, whose 16 bits have steps of 2^-8 to 2^-7, and an adapter's part of 2^-10.
        network.get_input_embeddings().weight.data.normal_(0, 1 / scale)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, drawn)
        engine = build_engine(network.to(dtype))
        micro_batch = micro_batch_of(build_texts())
        with torch.no_grad(), engine.base_only():
            without = engine.hidden_states(micro_batch).double()
        with torch.no_grad():
            return engine.hidden_states(micro_batch).double() - without

    exact, rounded = move(torch.float64), move(torch.bfloat16)
    assert float(exact.abs().median()) < 2**-9
    assert float((exact * rounded).sum() / exact.square().sum()) == pytest.approx(1, abs=0.25)


@pytest.fixture(params=["llama", "gemma3"])
def dropping(request: pytest.FixtureRequest) -> tuple[Any, Any, Callable[[], Any]]:
    """Return a network with dropout, its engine, and its loss under always the same masks."""
    network = build_network(request.param, rank=16, alpha=32, dropout=0.1)
    network.train()
    engine, texts = build_engine(network), build_texts()

    def loss() -> Any:
        torch.manual_seed(7)
        return engine.sum_of_losses(micro_batch_of(texts), divisor=30)

    return network, engine, loss


def test_gradients_with_dropout_equal_finite_differences(
    dropping: tuple[Any, Any, Callable[[], Any]],
) -> None:
    network, _, loss = dropping
    loss().backward()
    found = gradients(network)
    draw, step = torch.Generator().manual_seed(3), 1e-6
    for name, parameter in network.named_parameters():
        if name not in found:
            continue
        direction = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            above = float(loss())
            parameter.sub_(direction, alpha=2 * step)
            below = float(loss())
            parameter.add_(direction, alpha=step)
        expected = float((found[name] * direction).sum())
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_masks_belong_to_tokens_however_a_step_is_split(
    dropping: tuple[Any, Any, Callable[[], Any]],
) -> None:
    network, engine, loss = dropping
    texts = build_texts()
    whole = loss()
    whole.backward()
    expected = gradients(network)
    torch.manual_seed(7)
    first = engine.sum_of_losses(micro_batch_of(texts[:2]), divisor=30)
    second = engine.sum_of_losses(micro_batch_of(texts[2:], first_token=10), divisor=30)
    (first + second).backward()
    assert float(first + second) == pytest.approx(float(whole), rel=TOLERANCE)
    assert worst_error(gradients(network), expected) < TOLERANCE


def test_another_seed_drops_something_else_and_evaluation_drops_nothing(
    dropping: tuple[Any, Any, Callable[[], Any]],
) -> None:
    network, engine, loss = dropping
    texts = build_texts()
    torch.manual_seed(8)
    assert float(engine.sum_of_losses(micro_batch_of(texts), divisor=30)) != float(loss())
    network.eval()
    expected, _ = measure_by_autograd(network, texts, divisor=30)
    with torch.no_grad():
        assert float(loss()) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_without_the_adapter_it_is_the_base_model(kind: str) -> None:
    network, texts = build_network(kind), build_texts()
    with network.disable_adapter():
        total = sum(
            float(
                torch.nn.functional.cross_entropy(
                    network(torch.tensor([text.input_ids])).logits[0, :-1],
                    torch.tensor(text.input_ids[1:]),
                    reduction="sum",
                )
            )
            for text in texts
            if len(text.input_ids) > 1
        )
    engine = build_engine(network)
    with torch.no_grad(), engine.base_only():
        assert float(engine.sum_of_losses(micro_batch_of(texts), divisor=1)) == pytest.approx(total)
    with torch.no_grad():
        assert float(engine.sum_of_losses(micro_batch_of(texts), divisor=1)) != pytest.approx(total)


def test_an_update_of_the_adapter_is_seen_by_the_next_micro_batch() -> None:
    network, texts = build_network(), build_texts()
    engine = build_engine(network)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(3):
        loss = engine.sum_of_losses(micro_batch_of(texts), divisor=30)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[0] > losses[1] > losses[2]


def quantize(base: Any) -> None:
    """Replace every projection by one in 4 bits, as loading with QLoRA does."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    for layer in base.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name, linear in list(owner.named_children()):
                if not name.endswith("_proj"):
                    continue
                four_bit = bitsandbytes.nn.Linear4bit(
                    linear.in_features,
                    linear.out_features,
                    bias=False,
                    compute_dtype=torch.float32,
                    quant_type="nf4",
                )
                four_bit.weight = bitsandbytes.nn.Params4bit(
                    linear.weight.data, requires_grad=False, quant_type="nf4"
                )
                setattr(owner, name, four_bit.to("cpu"))
    base.is_loaded_in_4bit = True


@pytest.mark.parametrize("kept", [3, 0], ids=["all kept", "all recomputed"])
def test_four_bit_weights_stay_so_and_give_the_same_gradients(kept: int) -> None:
    config_type, model_type, _ = KINDS["llama"]
    torch.manual_seed(0)
    base = model_type(
        config_type(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCABULARY,
            attn_implementation="eager",
        )
    )
    quantize(base)
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=list(ALL), task_type="CAUSAL_LM")
    network = peft.get_peft_model(base, lora)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    texts = build_texts()
    expected_loss, expected = measure_by_autograd(network, texts, divisor=30)
    engine = build_engine(network)
    engine.stack.keep(kept)
    loss = engine.sum_of_losses(micro_batch_of(texts), divisor=30)
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
    assert worst_error(gradients(network), expected) < 1e-4
    assert network.get_base_model().model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
