"""One optimizer step: gradients over all micro-batches, guard, clip, update.

Used by `train` alone. The loss of a step is normalised by the supervised tokens of the whole step,
and dropout is drawn from the seed and the step, so that a step done again, after memory ran out or
in a later pod, is the same step.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import inf, isfinite
from typing import Any

import torch

from finetune_api.plan import TrainingParameters
from finetune_api.resource import Optimizer
from finetune_trainer.errors import NotFinite, OutOfGpuMemory, PlanInvalid
from finetune_trainer.model.host_copies import Copy, copy_fresh
from finetune_trainer.model.loaded_model import LoadedModel, StatefulEngine
from finetune_trainer.ranks.commands import DoStep
from finetune_trainer.ranks.process_group import SINGLE, ProcessGroup
from finetune_trainer.steps.micro_batches import TokenBudget, Tokens, retry_smaller
from finetune_trainer.training.prefetch import Upcoming

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""AdamW's constants as transformers' Trainer has them; the guide names none."""
FIRST_LOSS_SCALE = 2.0**16
"""Factor on the loss in fp16, whose gradients underflow; halved where it overflows (as torch's own)."""


def build_optimizer(loaded: LoadedModel, training: TrainingParameters) -> Any:
    """Return AdamW over the adapter. Only matrices decay, never biases or magnitudes.

    Raises:
        PlanInvalid: The 8-bit optimizer is asked for on a CPU.
    """
    parameters = loaded.trainable()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer is Optimizer.ADAMW:
        return torch.optim.AdamW(
            groups, lr=training.learning_rate, betas=BETAS, eps=EPSILON, fused=True
        )
    if loaded.device.type == "cpu":
        raise PlanInvalid(
            "The optimizer AdamW8bit needs a GPU and the plan has none: set parameters.optimizer to"
            " AdamW, or resources.gpus to 1 or more, and apply again.",
            reason="OptimizerNeedsGpu",
        )
    # Heavy, and absent where it is not needed.
    bitsandbytes = import_module("bitsandbytes")
    return bitsandbytes.optim.AdamW8bit(groups, lr=training.learning_rate, betas=BETAS, eps=EPSILON)


@dataclass(frozen=True)
class Found:
    """The two numbers of a step that decide whether it counts."""

    loss: float
    norm: float


def _no_rows() -> Sequence[Tokens]:
    return ()


class Stepper:
    """Does optimizer steps on one model."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        training: TrainingParameters,
        budget: TokenBudget,
        group: ProcessGroup = SINGLE,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._device = loaded.device
        self._engine = loaded.engine
        self._upcoming = Upcoming(loaded.engine)
        self._parameters = loaded.trainable()
        self._optimizer = build_optimizer(loaded, training)
        self._max_norm = training.max_grad_norm or inf
        self._seed = training.seed
        self._budget = budget
        self._group = group
        """Each rank does its shard of the step, then all do the same update."""
        self._check = check
        """Called before each micro-batch; what it raises leaves weights and optimizer as they were."""
        self._loss_scale = FIRST_LOSS_SCALE if loaded.dtype == torch.float16 else 1.0
        self._guards_on_device = loaded.device.type == "cuda" and isinstance(
            self._optimizer, torch.optim.AdamW
        )

    def do(
        self,
        batch: Sequence[Tokens],
        *,
        step: int,
        supervised: int,
        learning_rate: float,
        following: Callable[[], Sequence[Tokens]] = _no_rows,
    ) -> tuple[float, float, int]:
        """Do step `step`, which counts from 0.

        `following` returns the rows of the step that comes next, none after the last. It is called when
        all of this step is queued: what the host can do for the next one costs nothing then.

        Returns:
            Loss in nats per supervised token, gradient norm before clipping, count of micro-batches.

        Raises:
            NotFinite: Loss or gradient is NaN or infinite; the weights are those before the step.
            OutOfGpuMemory: One sequence does not fit, or the optimizer's state does not.
            BrokenOff: The pod must go before the step can be over; it was not done.
        """
        self._group.command(DoStep(step=step, learning_rate=learning_rate))
        mine = self._group.shard(batch)
        while True:
            loss, count = retry_smaller(
                partial(self._accumulate, mine, step=step, supervised=supervised),
                budget=self._budget,
                sequences=mine,
                layout=self._engine.layout,
                what="training",
            )
            self._group.sync_budget(self._budget)
            with _told_when_full():
                loss = self._group.all_reduce_gradients(loss, self._parameters)
                found = self._update(
                    loss,
                    self._clip(),
                    learning_rate=learning_rate,
                    meanwhile=partial(self._look_ahead, following),
                )
            if isfinite(found.norm) or not isfinite(found.loss) or self._loss_scale == 1.0:
                break
            # fp16 overflowed, which says nothing about the training: the step is done again.
            self._loss_scale /= 2
        _check_finite(found)
        self._optimizer.zero_grad(set_to_none=True)
        return found.loss, found.norm, count

    def to_state(self, copy: Copy = copy_fresh) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what a checkpoint keeps: copies on the CPU, and the rest as JSON.

        Names are `<number of the parameter>/<what it is>`.
        """
        tensors: dict[str, torch.Tensor] = {}
        numbers: dict[str, Any] = {}
        for index, values in self._optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{index}/{name}"] = copy(f"{index}/{name}", value)
                else:
                    numbers[f"{index}/{name}"] = value
        engine = self._engine.state() if isinstance(self._engine, StatefulEngine) else None
        return tensors, {"numbers": numbers, "lossScale": self._loss_scale, "engine": engine}

    def load_state(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        values: dict[int, dict[str, Any]] = {}
        for place, value in (*tensors.items(), *state["numbers"].items()):
            index, _, name = place.partition("/")
            values.setdefault(int(index), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": values, "param_groups": groups})
        self._loss_scale = state["lossScale"]
        if isinstance(self._engine, StatefulEngine) and state["engine"] is not None:
            self._engine.restore(state["engine"])

    def _accumulate(
        self, batch: Sequence[Tokens], *, step: int, supervised: int, token_budget: int
    ) -> tuple[torch.Tensor, int]:
        """Leave the gradient of these sequences in the parameters; return loss and micro-batches."""
        self._optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(mix_seed(self._seed, step, rank=self._group.rank))
        total, count = torch.zeros((), device=self._device), 0
        for micro_batch in self._upcoming.take(batch, token_budget=token_budget):
            self._check()
            loss = self._engine.sum_of_losses(micro_batch, divisor=supervised)
            (loss * self._loss_scale).backward()
            total += loss.detach().float()
            count += 1
        return total, count

    def _clip(self) -> torch.Tensor:
        """Undo the loss scale, clip, and return the norm before clipping. Shape: ()."""
        if self._loss_scale != 1.0:
            for parameter in self._with_gradients():
                parameter.grad.mul_(1 / self._loss_scale)
        norm: torch.Tensor = torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        return norm

    def _look_ahead(self, following: Callable[[], Sequence[Tokens]]) -> None:
        mine = self._group.shard(following())
        self._upcoming.prepare(mine, token_budget=self._budget.tokens)

    def _update(
        self,
        loss: torch.Tensor,
        norm: torch.Tensor,
        *,
        learning_rate: float,
        meanwhile: Callable[[], None],
    ) -> Found:
        """Update the weights where loss and norm are finite; return both, waiting for the device once.

        `meanwhile` is called before that wait, when all that can be queued before it is. On a GPU the guard
        is part of the update, so that everything of a step is queued before the host backoff: it would
        otherwise keep the device idle between gradient and update.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        numbers = torch.stack([loss.float(), norm.float()])
        if self._guards_on_device:
            # torch's own gradient scaler tells its fused optimizers the same way to do nothing.
            self._optimizer.found_inf = (~numbers.isfinite().all()).float()
            self._optimizer.step()
            meanwhile()
            return Found(*numbers.tolist())
        meanwhile()
        found = Found(*numbers.tolist())
        if isfinite(found.loss) and isfinite(found.norm):
            self._optimizer.step()
        return found

    def _with_gradients(self) -> Iterable[Any]:
        return (parameter for parameter in self._parameters if parameter.grad is not None)


def mix_seed(seed: int, step: int, *, rank: int = 0) -> int:
    """Return the seed of one step's dropout on one rank, below 2^63."""
    drawn = f"{seed}:{step}:{rank}" if rank else f"{seed}:{step}"
    digest = hashlib.blake2b(drawn.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _check_finite(found: Found) -> None:
    for name, value in (("loss", found.loss), ("gradient norm", found.norm)):
        if not isfinite(value):
            raise NotFinite(f"{name} is {value}", reason="NotFinite")


@contextmanager
def _told_when_full() -> Iterator[None]:
    """Turn a full GPU into our error where smaller micro-batches would not help.

    Clipping and the update hold no activations, only the adapter, its gradient and its moments.
    """
    try:
        yield
    except torch.OutOfMemoryError as fault:
        raise OutOfGpuMemory(
            "The GPU's memory does not hold the optimizer's state beside the model: lower"
            " parameters.lora.r, choose method QLoRA or optimizer AdamW8bit, or ask for a GPU with"
            " more memory.",
            reason="OptimizerTooLarge",
        ) from fault
