"""Heavy libraries imported beside the downloads: one after the other they keep a GPU waiting.

Used by `pipeline`. Unsloth takes 20 to 30 s to import, all of it one core's work, while downloading
and hashing wait for a network, a disk or other cores (both measured on machines with an H100).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def import_in_background(*names: str) -> Iterator[None]:
    """Import modules, in this order, while the block runs; they are there when it is over.

    A block that fails is over only when the import is: an interpreter that ends in the middle of one
    may crash, and its exit code would be that of no known fault.

    Raises:
        ImportError: There is no such module, or it lacks something.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="import") as pool:
        importing = pool.submit(lambda: [import_module(name) for name in names])
        yield
        importing.result()
