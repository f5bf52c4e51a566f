"""Decided parameters as the memory model reads them, and what fits by them.

Between `memory_fit`, which decides by numbers, and `resolve`. Nothing is decided on CPU, or where the
model's shape is unknown. Pure.
"""

from functools import lru_cache

from finetune_api.resource import Method, Optimizer
from finetune_resolver.memory.estimate import Workload
from finetune_resolver.memory.fit import (
    GpuMemoryDecision,
    MethodDecision,
    decide_gpu_memory_class,
    decide_method_by_memory,
    methods_to_try,
)
from finetune_resolver.memory.model_shape import ALL_LINEAR
from finetune_resolver.policies.facts import Facts
from finetune_resolver.steps import Values, count, number

WORKLOADS_REMEMBERED = 256
"""Users choose ranks and modules, so the memory is bounded; a cluster has some dozens in use."""


def build_workload(values: Values, *, method: Method) -> Workload:
    """Return what is trained, of decided parameters.

    Args:
        values: the parameters decided so far, by the guide's name.
        method: LoRA, QLoRA or Full.
    """
    return _workload(
        method=method,
        rank=count(values, "r"),
        modules=_modules(values),
        optimizer=str(values["optimizer"]),
        dropout=number(values, "lora_dropout"),
    )


# A resolution asks up to four times for the same two.
@lru_cache(maxsize=WORKLOADS_REMEMBERED)
def _workload(
    *, method: Method, rank: int, modules: tuple[str, ...], optimizer: str, dropout: float
) -> Workload:
    return Workload(
        method=method,
        rank=rank,
        modules=modules,
        optimizer=Optimizer(optimizer),
        dropout=dropout > 0,
    )


def decide_fitting_method(facts: Facts, values: Values) -> MethodDecision | None:
    """Return the method that fits the GPU; None on CPU and for a model whose shape is unknown.

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.

    Raises:
        UnsupportedModelError: an adapter is put on a module that the model lacks.
    """
    if facts.shape is None or not facts.has_gpu:
        return None
    return decide_method_by_memory(
        facts.shape,
        build_workload(values, method=facts.method),
        max_seq_length=count(values, "max_seq_length"),
        gpu_memory_bytes=facts.gpu_memory_bytes,
    )


def decide_nominal_class(facts: Facts, values: Values) -> GpuMemoryDecision | None:
    """Return the guide's memory class: whether its nominal batch fits one micro-batch.

    None where it is unknown, also for a model that lacks the modules that the guide names: under
    policy Evidence that is no reason to refuse, and under Guide `decide_fitting_method` refuses.

    Args:
        facts: what policy Evidence looks at.
        values: the parameters decided so far, by the guide's name.
    """
    shape, gpu_memory = facts.shape, facts.gpu_memory_bytes
    if shape is None or gpu_memory is None or not shape.has(_modules(values)):
        return None
    decision = None
    for method in methods_to_try(facts.method):
        decision = decide_gpu_memory_class(
            shape,
            build_workload(values, method=method),
            batch_size=count(values, "batch_size"),
            max_seq_length=count(values, "max_seq_length"),
            gpu_memory_bytes=gpu_memory,
        )
        if decision.largest_batch:
            break
    return decision


def _modules(values: Values) -> tuple[str, ...]:
    modules = values["target_modules"]
    return tuple(map(str, modules)) if isinstance(modules, list) else (ALL_LINEAR,)
