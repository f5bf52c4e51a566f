"""torch's attention over packed rows, with the signature that Unsloth looks for.

Called by `model` before it imports Unsloth. torch 2.11 has the kernel, which takes fewer key heads than
query heads, but not the argument that says so; Unsloth then leaves packed rows to one call a document.
From torch 2.12 on nothing is done here.
"""

import inspect
from importlib import import_module
from typing import Any


def complete_signature() -> None:
    """Let torch's function accept `enable_gqa`, where it lacks the argument."""
    try:
        module: Any = import_module("torch.nn.attention.varlen")
    except ImportError:
        # Older still: there is no such kernel, and Unsloth knows.
        return
    inner = module.varlen_attn
    if "enable_gqa" in inspect.signature(inner).parameters:
        return

    def varlen_attn(*arguments: Any, enable_gqa: bool = False, **named: Any) -> Any:
        del enable_gqa
        return inner(*arguments, **named)

    # What Unsloth inspects are the names of the arguments.
    parameters = [
        *inspect.signature(inner).parameters.values(),
        inspect.Parameter("enable_gqa", inspect.Parameter.KEYWORD_ONLY, default=False),
    ]
    vars(varlen_attn)["__signature__"] = inspect.Signature(parameters)
    module.varlen_attn = varlen_attn
