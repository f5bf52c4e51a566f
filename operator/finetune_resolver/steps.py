"""How many sequences, steps and evaluations a run has: small arithmetic on decided values. Pure."""

import math
from collections.abc import Mapping

from pydantic import JsonValue

from finetune_api.resource import Resources

EVAL_STEPS_BOUNDS = (100, 500)
"""Steps between evaluations; the guide's range (G-HT-14)."""
EVALUATIONS_PER_RUN = 20
"""Aimed at where the bounds allow it (assumption)."""

NUMBER = (int, float)
Values = Mapping[str, JsonValue]
"""Decided values by the guide's name."""


def number(values: Values, name: str) -> float:
    """Return a decided value that is a number.

    Args:
        values: the parameters decided so far, by the guide's name.
        name: the guide's name of the parameter.
    """
    value = values[name]
    if isinstance(value, NUMBER):
        return value
    raise TypeError(f"{name} is {value!r}, expected a number; this is a bug in the rule table.")


def count(values: Values, name: str) -> int:
    """Return a decided value that is a whole number.

    Args:
        values: the parameters decided so far, by the guide's name.
        name: the guide's name of the parameter.
    """
    value = values[name]
    return value if isinstance(value, int) else int(number(values, name))


def workers(resources: Resources) -> int:
    """Return the processes that train together: one a GPU, or one on CPU."""
    return max(1, resources.gpus) * resources.nodes


def effective_batch(values: Values, *, world: int) -> int:
    """Return the sequences of one optimizer step over all workers.

    Args:
        values: the parameters decided so far, by the guide's name.
        world: processes that train together, one a GPU.
    """
    per_device = count(values, "per_device_train_batch_size")
    return per_device * count(values, "gradient_accumulation_steps") * world


def estimate_total_steps(values: Values, *, world: int, examples: int | None) -> int | None:
    """Return the optimizer steps of the run, or None where the number of examples is unknown.

    Args:
        values: the parameters decided so far, by the guide's name.
        world: processes that train together, one a GPU.
        examples: trained on; None where unknown.
    """
    if count(values, "max_steps") > 0:
        return count(values, "max_steps")
    # Packed blocks hold several examples; how many is known only once they are tokenised.
    if examples is None or values["packing"]:
        return None
    an_epoch = math.ceil(examples / effective_batch(values, world=world))
    return math.ceil(an_epoch * number(values, "num_train_epochs"))


def estimate_eval_steps(values: Values, *, total: int) -> int:
    """Return the optimizer steps between two evaluations.

    Args:
        values: the parameters decided so far, by the guide's name.
        total: optimizer steps of the run.
    """
    if values["eval_steps"] is not None:
        return count(values, "eval_steps")
    lowest, highest = EVAL_STEPS_BOUNDS
    return min(max(total // EVALUATIONS_PER_RUN, lowest), highest)
