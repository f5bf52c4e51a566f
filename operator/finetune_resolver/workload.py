"""Decided parameters as the memory model reads them, and which method fits by them. Pure."""

from finetune_api.resource import Method, Optimizer
from finetune_resolver.facts import Facts
from finetune_resolver.memory import Workload
from finetune_resolver.memory_fit import MethodDecision, decide_method_by_memory
from finetune_resolver.model_shape import ALL_LINEAR
from finetune_resolver.steps import Values, count, number


def build_workload(values: Values, *, method: Method) -> Workload:
    """Return what is trained, of decided parameters."""
    modules = values["target_modules"]
    return Workload(
        method=method,
        rank=count(values, "r"),
        modules=tuple(map(str, modules)) if isinstance(modules, list) else (ALL_LINEAR,),
        optimizer=Optimizer(str(values["optimizer"])),
        dropout=number(values, "lora_dropout") > 0,
    )


def decide_fitting_method(facts: Facts, values: Values) -> MethodDecision | None:
    """Return the method that fits the GPU; None on CPU and for a model whose shape is unknown.

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
