"""The half of a worker that needs torch: its model, its shard of each step and of each evaluation.

Used by `worker`, as `training_run` is used on rank 0. Everything that it computes with is code that
rank 0 runs too.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from finetune_api.plan import TrainingParameters, TrainingPlan
from finetune_trainer.engine.choose import Chosen, choose
from finetune_trainer.errors import NotFinite

# Unsloth before everything that imports transformers.
from finetune_trainer.model import load
from finetune_trainer.ranks.commands import Begin, Command, DoStep, Evaluate, LoadState
from finetune_trainer.ranks.torch_process_group import DistributedGroup, join
from finetune_trainer.ranks.worker_files import HELD_OUT, TRAIN, StoredRows, read_state
from finetune_trainer.steps.batches import Batches
from finetune_trainer.steps.schedule import build_schedule
from finetune_trainer.steps.snapshot import ADAPTER, OPTIMIZER
from finetune_trainer.training.evaluate import evaluate, evaluate_base
from finetune_trainer.training.optimizer_step import Stepper


class WorkerTraining:
    """The training on one rank but the first."""

    def __init__(
        self,
        chosen: Chosen,
        *,
        training: TrainingParameters,
        train: StoredRows,
        held_out: StoredRows,
        group: DistributedGroup,
    ) -> None:
        self._chosen = chosen
        self._held_out = held_out
        self._group = group
        self._stepper = Stepper(chosen.loaded, training=training, budget=chosen.budget, group=group)
        schedule = build_schedule(training, rows=len(train), held_out=len(held_out))
        self._batches = Batches(
            train,
            sequences_per_step=training.sequences_per_step,
            seed=training.seed,
            total_steps=schedule.total_steps,
        )
        chosen.loaded.network.train()

    @classmethod
    def join(
        cls,
        plan: TrainingPlan,
        begin: Begin,
        *,
        rank: int,
        world_size: int,
        environ: Mapping[str, str],
    ) -> "WorkerTraining":
        """Load the model and join the process group.

        Raises:
            TrainerError: The model does not fit this GPU, or another rank is gone.
        """
        loaded = load.load(plan, folder=Path(begin.model))
        corpus = Path(begin.corpus)
        train = StoredRows(corpus, TRAIN)
        join(
            Path(begin.rendezvous),
            rank=rank,
            world_size=world_size,
            device=loaded.device,
        )
        group = DistributedGroup(rank=rank, world_size=world_size)
        group.broadcast_parameters(loaded.trainable())
        return cls(
            choose(plan, loaded, train, environ=environ, group=group),
            training=plan.whole_training,
            train=train,
            held_out=StoredRows(corpus, HELD_OUT),
            group=group,
        )

    def do(self, command: Command) -> None:
        """Do what rank 0 does.

        Raises:
            TrainerError: It cannot be done here.
        """
        loaded, budget = self._chosen.loaded, self._chosen.budget
        match command:
            case DoStep():
                self._do_step(command)
            case Evaluate(base=True):
                evaluate_base(loaded, self._held_out, budget=budget, group=self._group)
            case Evaluate():
                evaluate(loaded, self._held_out, budget=budget, group=self._group)
            case LoadState():
                tensors, state = read_state(Path(command.folder))
                loaded.restore_adapter(dict(tensors[ADAPTER]))
                self._stepper.load_state(tensors[OPTIMIZER], state)
            case _:
                raise TypeError(f"The command {command.kind!r} comes once, at the beginning.")

    def _do_step(self, command: DoStep) -> None:
        batch = self._batches.of(command.step)
        try:
            self._stepper.do(
                batch.rows,
                step=command.step,
                supervised=batch.supervised,
                learning_rate=command.learning_rate,
                following=partial(self._batches.rows_after, command.step),
            )
        except NotFinite:
            # Rank 0 has the same numbers and ends the run with the rows' names.
            return
