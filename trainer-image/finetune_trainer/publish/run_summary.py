"""The figures of a finished run, for status, the manifest and what status observes of each parameter.

Called by `pipeline` once the training is over. Pure arithmetic over the reports of the steps.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from finetune_api.outcome import RunSummary
from finetune_api.plan import TrainingParameters

if TYPE_CHECKING:
    from finetune_trainer.checkpoints.save_costs import Costs
    from finetune_trainer.model.loaded_model import LoadedModel
    from finetune_trainer.steps.micro_batches import TokenBudget
    from finetune_trainer.steps.step_report import StepReport
    from finetune_trainer.training.loop import TrainResult

TREND_SHARE = 10
"""The beginning and the end of a trend are a tenth of the steps each: one step's loss is noise."""


def build_summary(
    result: "TrainResult",
    loaded: "LoadedModel",
    *,
    training: TrainingParameters,
    budget: "TokenBudget",
    costs: "Costs",
    predicted_peak_bytes: int | None = None,
    world_size: int = 1,
    deadline_s: int | None = None,
) -> RunSummary:
    """Return the figures of a run.

    Args:
        result: What the loop did.
        loaded: The model.
        training: What the plan asked for.
        budget: What a micro-batch held.
        costs: What checkpoints took.
        predicted_peak_bytes: What the runtime expected of the GPU.
        world_size: Ranks that trained together.
        deadline_s: The run's deadline; it counts where the training was cut short.
    """
    last, history = result.last, result.history
    tenth = -(-len(history) // TREND_SHARE)
    evaluated = [report.step for report in history if report.eval_loss is not None]
    return RunSummary(
        steps=last.step,
        total_steps=last.total_steps,
        epochs=last.epoch,
        final_loss=last.loss,
        best_eval_loss=result.best_eval_loss,
        best_step=result.best_step,
        published_step=result.published_step,
        stopped_early=result.stopped_early,
        train_seconds=result.train_seconds,
        tokens=result.tokens,
        trainable_parameters=loaded.trainable_parameters,
        predicted_gpu_memory_bytes=predicted_peak_bytes,
        peak_gpu_memory_bytes=result.peak_gpu_memory_bytes,
        attention=loaded.attention,
        loss_at_start=fmean(report.loss for report in history[:tenth]),
        loss_at_end=fmean(report.loss for report in history[-tenth:]),
        clipped_share=_clipped_share(history, limit=training.max_grad_norm),
        world_size=world_size,
        sequences_per_step=fmean(report.sequences for report in history),
        tokens_per_step=fmean(report.tokens for report in history),
        micro_batches_per_step=fmean(report.micro_batches for report in history),
        micro_batch_tokens=budget.tokens,
        micro_batch_halvings=result.micro_batch_halvings,
        evaluations=len(evaluated),
        eval_steps=evaluated[0] if evaluated else None,
        checkpoints=costs.saved,
        checkpoint_wait_seconds=round(costs.waited, 4),
        deadline_seconds=deadline_s if result.cut_short else None,
        resumed_from_step=result.resumed_from_step,
    )


def _clipped_share(history: Sequence["StepReport"], *, limit: float) -> float | None:
    """Return the share of clipped steps; a limit of 0 clips nothing."""
    if limit <= 0:
        return None
    return fmean(report.grad_norm > limit for report in history)
