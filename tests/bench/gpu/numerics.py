"""This trainer's engines against plain PEFT: logits, adapter gradients, attention and loss curves.

    python -m tests.bench.gpu.numerics DEVICE ANSWER.json MODEL [CURVES.json]

Started by `bench` as an extra. With CURVES.json, plain PEFT's curves are those of an earlier run (its
`curves`), which an 8B in fp32 takes minutes for. The bars are not absolute: on random weights any bf16 engine is
2 % off fp32. An engine passes where it is no further off than stock PEFT in bf16 is, its attention
op by 4e-3 at most, and its loss curve by what rounding or other dropout masks do to stock's own.
"""

import gc
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.bench.gpu.jobs import Job
from tests.bench.gpu.own import build_plan
from tests.bench.gpu.shapes import SHAPES

MARGIN = 1.05
"""Two bf16 engines that are both right differ by less in their error (measured: 2.38, 2.39, 2.43 %)."""
ATTENTION_BAR = 4e-3
CURVE_FACTOR = 2.0
"""Times the distance that stock PEFT's own curve has: in bf16 from fp32, or with one seed of dropout from
another. Rounding and masks grow step by step, so no fixed distance is right (assumption). With dropout there is
no curve in fp32, and stock's own is added to what it may differ by from stock: it was 0.05 nats at the fourth step
of an 8B's width where the fused stack's was 0.0002 (measured)."""
LEAST_DISTANCE = 2e-3
"""Nats; below it curves are the same."""
ATTENTION_SHAPES = ((32, 8, 128), (32, 8, 64))
"""Query heads, key heads, size of a head: those of an 8B and a 1B."""
ENGINES = {"fused": (0.0, 0.1), "unsloth": (0.0,)}
"""Engine to dropouts of its curves. Unsloth's own path compiles its padded rows for half a minute each
time that a model is loaded; its dropout is not ours to prove."""


def measure_engine(name: str, *, model: Path, folder: Path, device: str) -> dict[str, Any]:
    """Return the errors of one engine, and its curves."""
    # Unsloth must be imported before anything that imports transformers.
    load = import_module("finetune_trainer.model.load").load
    import torch

    from finetune_trainer.engine.choose import choose
    from tests.bench.gpu.numerics_case import (
        EXTENTS,
        Seen,
        build_case,
        build_row,
        compare,
        set_adapter,
    )

    case = build_case(SHAPES[model.name])
    reported: dict[str, Any] = {}
    for dropout in ENGINES[name]:
        if dropout not in EXTENTS[case.shape.name].dropouts:
            continue
        row = build_row(case.shape, dropout=dropout)
        job = Job(
            row=row, model=model, folder=folder, corpus_steps=row.steps, device=device, work=folder
        )
        plan = build_plan(job)
        tokens = sum(len(each.input_ids) for each in case.batches[0])
        forced = {
            "FINETUNE_ENGINE": name,
            "FINETUNE_TOKENS_PER_MICRO_BATCH": str(tokens),
            "FINETUNE_LAYERS_KEPT": str(case.shape.num_hidden_layers),
        }
        chosen = choose(plan, load(plan, folder=model), case.batches[0], environ=forced)
        reported["engine"] = chosen.runtime.engine.value
        reported["choices"] = [each.reason for each in chosen.runtime.choices]
        if not dropout:
            set_adapter(chosen.loaded.network, fresh=False)
            seen = see(chosen, case)
            for reference in ("fp32", "stock"):
                reported[f"against_{reference}"] = compare(
                    seen, Seen.load(folder / f"{reference}.pt")
                )
        set_adapter(chosen.loaded.network, fresh=True)
        reported[f"curve dropout {dropout:g}"] = draw_curve(chosen, plan, case)
        del chosen
        gc.collect()
        torch.cuda.empty_cache()
    return reported


def see(chosen: Any, case: Any) -> Any:
    """Pass once over the first batch, packed where the engine takes that."""
    import torch

    from finetune_trainer.steps.micro_batches import MicroBatch
    from tests.bench.gpu.numerics_case import Seen, collect, find_adapter

    network, engine = chosen.loaded.network.train(), chosen.loaded.engine
    base = network.get_base_model()
    micro_batch = MicroBatch(case.batches[0])
    states: list[torch.Tensor] = []
    watching = base.model.register_forward_hook(lambda module, given, out: states.append(out[0]))
    loss = engine.sum_of_losses(micro_batch, divisor=case.supervised[0])
    watching.remove()
    loss.backward()
    gradients = collect(find_adapter(network))
    with torch.no_grad():
        if engine.name == "fused":
            hidden = base.model.norm(engine.hidden_states(micro_batch))
        else:
            hidden = take_documents(states[0], micro_batch)
        rows = hidden[case.picked().to(hidden.device)]
        head = base.get_output_embeddings().weight
        logits = (rows.to(head.dtype) @ head.t()).float().cpu()
    return Seen(float(loss), logits, gradients)


def take_documents(state: Any, micro_batch: Any) -> Any:
    """Return the tokens of a packed row or of padded ones. Shape: (tokens, hidden)."""
    import torch

    if state.shape[0] == 1:
        return state[0]
    parts = [state[place, :length] for place, length in enumerate(micro_batch.lengths)]
    return torch.cat(parts)


def draw_curve(chosen: Any, plan: Any, case: Any) -> list[float]:
    """Train with the trainer's own steps and return their losses."""
    from finetune_trainer.training.optimizer_step import Stepper

    stepper = Stepper(chosen.loaded, training=plan.training, budget=chosen.budget)
    losses = []
    for step in range(plan.training.max_steps):
        place = step % len(case.batches)
        loss, _, _ = stepper.do(
            case.batches[place],
            step=step,
            supervised=case.supervised[place],
            learning_rate=plan.training.learning_rate,
        )
        losses.append(loss)
    return losses


def find_attentions(device: str) -> list[Any]:
    """Return the implementations that this machine can run."""
    import torch

    from finetune_trainer.fused.attention import load_attention

    found = [load_attention(torch.device(device))]
    if device == "cuda":
        flash4 = import_module("finetune_trainer.fused.flash4")
        if not flash4.find_obstacle(torch.cuda.get_device_capability()):
            found.append(flash4.FlashAttention4())
    return found


def measure_attention(
    attention: Any, heads: int, key_heads: int, size: int, *, device: str
) -> dict[str, float]:
    """Return relative errors of the attention op and its gradients against fp32."""
    import torch

    from finetune_trainer.fused.attention import AttentionWindow, DocumentBounds
    from tests.bench.gpu.numerics_case import relative_error

    lengths = [1200, 700, 500, 400, 300, 300, 250, 200, 150, 96] if device == "cuda" else [40, 9, 3]
    tokens = sum(lengths)
    torch.manual_seed(3)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v, gradient = (
        torch.randn(tokens, count, size, device=device).to(dtype)
        for count in (heads, key_heads, key_heads, heads)
    )
    ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device=device)
    documents = DocumentBounds(ends, max(lengths))
    attention_window = AttentionWindow(size**-0.5)
    attended = attention.forward(q, k, v, documents=documents, attention_window=attention_window)
    found = attention.backward(
        gradient, q, k, v, attended=attended, documents=documents, attention_window=attention_window
    )
    expected = attend_in_fp32(q, k, v, gradient, lengths)
    names = ("out", "dq", "dk", "dv")
    return {
        name: relative_error(ours, theirs)
        for name, ours, theirs in zip(names, (attended.out, *found), expected, strict=True)
    }


def attend_in_fp32(q: Any, k: Any, v: Any, gradient: Any, lengths: list[int]) -> tuple[Any, ...]:
    """Return output and gradients by torch's SDPA, document by document in fp32."""
    import torch

    inputs = [each.float().requires_grad_() for each in (q, k, v)]
    outs, start = [], 0
    for length in lengths:
        part = [each[start : start + length].transpose(0, 1)[None] for each in inputs]
        out = torch.nn.functional.scaled_dot_product_attention(
            *part, is_causal=True, enable_gqa=True
        )
        outs.append(out[0].transpose(0, 1))
        start += length
    out = torch.cat(outs)
    return (out.detach(), *torch.autograd.grad(out, inputs, gradient.float()))


# --- Verdicts -----------------------------------------------------------------------------------


def judge(found: dict[str, Any], *, stock: dict[str, float], curves: dict[str, Any]) -> list[str]:
    """Return what does not pass, in words; empty where everything does."""
    failures = []
    for name, reported in found["engines"].items():
        for what in ("logits", "gradients"):
            ours, theirs = reported["against_fp32"][what], stock[what]
            if not ours <= max(theirs * MARGIN, 1e-5):
                failures.append(f"{name}: {what} {ours:.2e} off fp32, stock PEFT {theirs:.2e}")
        rounding = furthest(curves["stock dropout 0"], curves["fp32 dropout 0"])
        pairs = [("dropout 0", "fp32 dropout 0", CURVE_FACTOR * rounding)]
        if "curve dropout 0.1" in reported:
            seeds = furthest(curves["stock again"], curves["stock dropout 0.1"])
            pairs.append(("dropout 0.1", "stock dropout 0.1", CURVE_FACTOR * seeds + rounding))
        for what, reference, allowed in pairs:
            apart = furthest(reported[f"curve {what}"], curves[reference])
            if not apart <= max(allowed, LEAST_DISTANCE):
                failures.append(
                    f"{name}: curve with {what} {apart:.4f} nats off, allowed {allowed:.4f}"
                )
    for shape, errors in found["attention"].items():
        worst = max(errors.values())
        if not worst <= ATTENTION_BAR:
            failures.append(f"attention {shape}: {worst:.2e} off fp32")
    return failures


def furthest(curve: list[float], other: list[float]) -> float:
    """Return the largest difference of two curves, in nats."""
    return max(abs(a - b) for a, b in zip(curve, other, strict=True))


def main() -> int:
    """Run both halves and write what they show."""
    device, answer, model = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    # Two models may be compared at once.
    folder = answer.parent / f"numerics-{model.name}"
    half = [sys.executable, "-m", "tests.bench.gpu.numerics_reference", device]
    half += [str(folder), str(model)]
    subprocess.run([*half, *sys.argv[4:]], check=True)
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(folder / "unsloth")
    if device == "cpu":
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    # Torch before Unsloth does no harm; transformers, which the other half has, would.
    from tests.bench.gpu.numerics_case import EXTENTS, Seen, compare

    engines: dict[str, Any] = {}
    for name in EXTENTS[model.name].engines:
        engines[name] = measure_engine(name, model=model, folder=folder, device=device)
        # At once: a machine that is taken away leaves it in the log.
        print(json.dumps({name: engines[name]}), flush=True)
    found: dict[str, Any] = {
        "engines": engines,
        "attention": {
            f"{attention.name}, {heads}/{key_heads} x {size}": measure_attention(
                attention, heads, key_heads, size, device=device
            )
            for attention in find_attentions(device)
            for heads, key_heads, size in ATTENTION_SHAPES
        },
    }
    stock = compare(Seen.load(folder / "stock.pt"), Seen.load(folder / "fp32.pt"))
    curves = json.loads((folder / "curves.json").read_text())
    found |= {"stock": stock, "curves": curves}
    if failures := judge(found, stock=stock, curves=curves):
        found["failure"] = "; ".join(failures)
    answer.write_text(json.dumps(found))
    print(json.dumps({name: found.get(name) for name in ("attention", "stock", "failure")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
