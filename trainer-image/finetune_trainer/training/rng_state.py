"""The state of every random generator that a training could draw from, taken down and put back.

Below `snapshot`. Our own draws depend on seed and step alone; a library's may depend on what was drawn
before, and a resumed run must then draw the same.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

CPU = "torch.cpu"
CUDA = "torch.cuda."


def capture_random() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the states of torch's generators as tensors, and of Python's and NumPy's as JSON."""
    tensors = {CPU: torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors |= {
            f"{CUDA}{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())
        }
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return tensors, {
        "python": [version, list(internal), gauss],
        "numpy": [name, [int(key) for key in keys], *rest],
    }


def restore_random(tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Put the states back. A pod with other GPUs has other generators, which are left alone."""
    torch.set_rng_state(tensors[CPU])
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            if (saved := tensors.get(f"{CUDA}{number}")) is not None:
                torch.cuda.set_rng_state(saved, number)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
