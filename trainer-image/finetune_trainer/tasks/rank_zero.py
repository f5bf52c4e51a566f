"""Rank 0's half of forming the process group: the model loaded on every rank, and the ranks joined.

Used by `training_run`; the other half is `worker_training`. With one rank it only loads the model.
"""

from pathlib import Path

from finetune_api.plan import TrainingPlan
from finetune_trainer.inputs.tokenization import TokenizedCorpus

# Unsloth before everything that imports transformers.
from finetune_trainer.model import load
from finetune_trainer.model.loaded_model import LoadedModel
from finetune_trainer.ranks.commands import Begin, LoadState
from finetune_trainer.ranks.launcher import WORKERS_FOLDER, Workers
from finetune_trainer.ranks.process_group import SINGLE, ProcessGroup
from finetune_trainer.ranks.torch_process_group import DistributedGroup, join
from finetune_trainer.ranks.worker_files import write_corpus, write_state
from finetune_trainer.steps.snapshot import Snapshot


def load_on_all_ranks(
    plan: TrainingPlan,
    workers: Workers | None,
    *,
    folder: Path,
    corpus: TokenizedCorpus,
    work: Path,
) -> tuple[LoadedModel, ProcessGroup]:
    """Load the model from `folder` on every rank; return this rank's, and the group of all.

    `workers` are the other ranks, None where there is one; they find the corpus below `work`.

    Raises:
        TrainerError: It cannot be loaded, here or on another rank.
    """
    if workers is None:
        return load.load(plan, folder=folder), SINGLE
    files = work / WORKERS_FOLDER
    write_corpus(files, train=corpus.train, held_out=corpus.validation)
    rendezvous = files / "rendezvous"
    # Of an earlier run on a workstation.
    rendezvous.unlink(missing_ok=True)
    # All ranks load at once: what one reads from the disk the others find in memory.
    workers.command(Begin(model=str(folder), corpus=str(files), rendezvous=str(rendezvous)))
    loaded = load.load(plan, folder=folder)
    join(
        rendezvous,
        rank=0,
        world_size=workers.world_size,
        device=loaded.device,
        explain=workers.explain,
    )

    def send_state(snapshot: Snapshot) -> None:
        write_state(snapshot, files)
        workers.command(LoadState(folder=str(files)))

    group = DistributedGroup(
        rank=0,
        world_size=workers.world_size,
        command=workers.command,
        send_state=send_state,
        explain=workers.explain,
        close=workers.close,
    )
    group.broadcast_parameters(loaded.trainable())
    return loaded, group
