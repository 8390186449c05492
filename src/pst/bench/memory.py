"""Peak memory of one call, in a process of its own: the operating system's own high-water mark."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from typing import Any


def peak_memory(function: Callable[..., object], *args: Any, threads: int = 1) -> float:
    """Memory that one call takes on top of what its process held before, at its peak.

    The call is made twice in a fresh process, first small costs of a first call (library start-up, thread pools) are
    paid by ``function(*args, warmup=True)``, then the high-water mark is read around ``function(*args)``.

    Args:
        function: Importable by name; called with ``warmup=True`` it must do the same work at a small size.
        *args: Its arguments, picklable.
        threads: PyTorch threads in the process.

    Returns:
        10⁶ bytes.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_measure, args=(queue, function, args, threads))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"measuring the memory of {function.__name__}{args} failed: exit code {process.exitcode}")
    return queue.get()


def _measure(queue: Any, function: Callable[..., object], args: tuple[Any, ...], threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    function(*args, warmup=True)
    before = _high_water()
    function(*args)
    queue.put((_high_water() - before) / 1e6)


def _high_water() -> float:
    """Most memory this process ever held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
