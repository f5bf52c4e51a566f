"""Looks for finished work of a plan, and does nothing else: the answer to a pod that has no GPU.

Started by `__main__` instead of the pipeline. It needs the output's keys alone: no model, no text, no
torch. What it finds is verified as a run would verify it: by the store's word for every file that the
manifest lists, and by reading those that have another name there than when they were published.
"""

from finetune_api.outcome import NOTHING_FINISHED, Outcome, Stage
from finetune_api.plan import TrainingPlan
from finetune_api.wire import ExitCode
from finetune_trainer.pod.pod import Pod
from finetune_trainer.publish.publish import find_finished
from finetune_trainer.tasks.pipeline import build_already_done, connect_output


def probe(plan: TrainingPlan, *, pod: Pod) -> Outcome:
    """Return that the plan's adapter is published already, or that it is not.

    Raises:
        TrainerError: It cannot be seen: access, bucket or store.
    """
    output = connect_output(plan, pod)
    finished = find_finished(output.store, output.place, plan, deadline_s=pod.deadline_s)
    if finished is not None:
        return build_already_done(plan, finished, stage=Stage.START)
    return Outcome(
        exit_code=ExitCode.DONE,
        reason=NOTHING_FINISHED,
        stage=Stage.START,
        message=f"No finished adapter of this plan is below {output.place.root.uri}; it has to be trained.",
        plan_hash=plan.hash,
    )
