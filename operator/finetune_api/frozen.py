"""What may not change once the training Job exists.

A change that the running Job cannot follow must not look accepted. Rows of the table that `crd`
writes at the root of the CustomResourceDefinition, where a rule sees the old status; only the API
server knows the old object, so there is no check in Python.
"""

from typing import Final

from finetune_api.validation_rule import Transition

FROZEN: Final = (
    "model",
    "languages",
    "multilingual",
    "stage",
    "method",
    "policy",
    "parameters",
    "resources",
    "scheduling",
    "output",
    "checkpoints",
    "mode",
    "image",
)
"""Fields below `spec` that the Job was made from. The others may change at any time, and the Job
follows: suspend, updatePolicy, deadlinePolicy, backoffLimit, ttlSecondsAfterFinished, and activeDeadlineSeconds upwards."""

# NB: `?.` and `orValue` would be shorter, but they hide the bounds of the schema from the API
# server's cost estimate, which then refuses the rules.
_RECREATES: Final = "(has(self.spec.updatePolicy) && self.spec.updatePolicy == 'Recreate')"
_BEFORE_THE_JOB: Final = (
    "!has(oldSelf.status) || !has(oldSelf.status.conditions) || "
    "!oldSelf.status.conditions.exists(condition, "
    "condition.type == 'JobCreated' && condition.status == 'True')"
)
_DEADLINE: Final = "spec.activeDeadlineSeconds"


def _same(name: str) -> str:
    """Return the CEL that says a field below `spec` is as it was, or as absent as it was."""
    new, old = f"self.spec.{name}", f"oldSelf.spec.{name}"
    return f"(has({new}) ? has({old}) && {new} == {old} : !has({old}))"


TRANSITIONS: Final = (
    *(
        Transition(
            field=name,
            cel=f"{_same(name)} || {_RECREATES} || {_BEFORE_THE_JOB}",
            message=(
                f"spec.{name} cannot change after the training Job was created; create a "
                "LanguageFinetune of another name, or delete this one and apply it again"
            ),
        )
        for name in FROZEN
    ),
    Transition(
        field="activeDeadlineSeconds",
        cel=(
            f"!has(self.{_DEADLINE}) || (has(oldSelf.{_DEADLINE}) && "
            f"self.{_DEADLINE} >= oldSelf.{_DEADLINE}) || {_BEFORE_THE_JOB}"
        ),
        message=(
            "spec.activeDeadlineSeconds can only be raised or removed after the training Job was "
            "created; delete the resource to stop its training"
        ),
    ),
)
