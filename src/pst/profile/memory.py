"""Peak memory of one call: of a process of its own on the CPU, by PyTorch's allocator on a GPU."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_memory(function: Callable[..., object], *args: Any, threads: int = 1) -> float:
    """Memory that one call takes on top of what its process held before, at its peak.

    In a fresh process ``function(*args, warmup=True)`` pays the costs of a first call (library start-up, thread pools);
    then the kernel's high-water mark is reset, and read after ``function(*args)``.

    Args:
        function: Importable by name; called with ``warmup=True`` it must do the same work at a small size.
        *args: Its arguments, picklable.
        threads: PyTorch threads in the process.

    Returns:
        10⁶ bytes.

    Raises:
        RuntimeError: The system is not Linux, or the process failed.
    """
    if sys.platform != "linux":
        raise RuntimeError(f"peak memory is read from Linux's /proc, and this is {sys.platform}: pass memory=False")
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_measure, args=(queue, function, args, threads))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"measuring the memory of {function.__name__}{args} failed: exit code {process.exitcode}")
    return queue.get()


def peak_memory_cuda(call: Callable[[], object]) -> float:
    """Memory that one call takes on a GPU on top of what was held before, at its peak, in 10⁶ bytes.

    Read from PyTorch's allocator after a first call has paid for workspaces.
    """
    import torch

    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def _measure(queue: Any, function: Callable[..., object], args: tuple[Any, ...], threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    function(*args, warmup=True)
    reset_high_water()
    before = high_water()
    function(*args)
    queue.put((high_water() - before) / 1e6)


def reset_high_water() -> None:
    """Make Linux count `high_water` anew, from what this process holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def high_water() -> int:
    """Most memory this process held since the reset, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
