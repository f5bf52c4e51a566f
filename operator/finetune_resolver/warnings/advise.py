"""What a person may want to know or act on, beside the decisions.

An ordered list of small advisors; each looks at one thing and may say one sentence with the numbers
in it. Advice changes no value. Pure.
"""

from itertools import chain

from finetune_resolver.resolution import Advice
from finetune_resolver.warnings import languages, parameters
from finetune_resolver.warnings.context import Advisor, WarningContext


def advise(context: WarningContext) -> tuple[Advice, ...]:
    """Return all advice, in the order of `ADVISORS`."""
    return tuple(chain.from_iterable(advisor(context) for advisor in ADVISORS))


ADVISORS: tuple[Advisor, ...] = (
    languages.language_not_in_catalogue,
    languages.catalogue_other_script,
    languages.guide_label_disputed,  # C8, C25, C28
    languages.density_measured_differs,  # C12, C13
    languages.script_mismatch,
    parameters.truncation_high,  # C11
    parameters.lr_below_lora_range,  # C15
    parameters.alpha_ratio_high,  # C3
    parameters.attention_only_targets,
    parameters.rank_capacity_exceeded,
    parameters.effective_batch_mismatch,  # C4
    parameters.insufficient_gpu_memory,
    parameters.best_model_not_kept,  # C19
    parameters.early_stopping_inert,
    parameters.max_steps_unusual,  # C20
)
