"""Peak memory, in two meanings: `peak_memory`, all that is held inside a block; `added_memory`, what one call adds."""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_INTERVAL = 0.005  # seconds between two looks where the system keeps no high-water mark that can be reset


@contextmanager
def peak_memory(device: Any = "cpu") -> Iterator[list[float]]:
    """Most memory that was held at any time inside the with block, in 10⁶ bytes.

    On a GPU what PyTorch's allocator held. Elsewhere the resident set of this process: framework, weights and data, and
    what earlier work has not given back, but not other processes that load data. Linux keeps that mark itself; on other
    systems the resident set is looked at every 5 ms (by psutil), which misses shorter peaks.

    Blocks must not overlap: a process and a GPU have one mark each.

    Args:
        device: Where the work is done, e.g. "cpu" or "cuda:0".

    Yields:
        A list of one number, which holds the peak when the block has ended.

    Examples:
        >>> layer = pst.PST(64, 128, 64).eval()
        >>> with peak_memory() as peak:
        ...     out = layer(torch.randn(1, 64, 16, 16), torch.randn(1, 128, 8, 8))
        >>> peak[0] > 0  # MB
        True
    """
    import torch

    peak = [0.0]
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) / 1e6
    elif _reset_high_water():
        yield peak
        peak[0] = _high_water() / 1e6
    else:
        with _watched(peak):
            yield peak


def added_memory(function: Callable[..., object], *args: Any, threads: int = 1) -> float:
    """Memory that one call takes on the CPU on top of what its process held before, at its peak.

    In a fresh process ``function(*args, warmup=True)`` pays the costs of a first call (library start-up, thread pools);
    then the system's high-water mark is reset, and read after ``function(*args)``.

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
        raise RuntimeError(f"added memory is read from Linux's /proc, and this is {sys.platform}: pass memory=False")
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_measure, args=(queue, function, args, threads))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"measuring the memory of {function.__name__}{args} failed: exit code {process.exitcode}")
    return queue.get()


def added_memory_cuda(call: Callable[[], object]) -> float:
    """The same for a call on a GPU, by PyTorch's allocator, after a first call has paid for workspaces; 10⁶ bytes."""
    import torch

    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with peak_memory("cuda") as peak:
        call()
        torch.cuda.synchronize()
    return peak[0] - before / 1e6


def _measure(queue: Any, function: Callable[..., object], args: tuple[Any, ...], threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    function(*args, warmup=True)
    _give_back()
    if not _reset_high_water():
        raise RuntimeError(f"this system does not let a process write {_RESET}")
    before = _high_water()
    function(*args)
    queue.put((_high_water() - before) / 1e6)


def _give_back() -> None:
    """Let the C library return what it keeps of freed memory, which the measured call would else use unseen."""
    with suppress(AttributeError):  # a library without glibc's function
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water() -> bool:
    """Make the system count `_high_water` anew, from what this process holds now; False where it does not."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:  # no Linux, or one that is locked down
        return False
    return True


def _high_water() -> int:
    """Most memory this process held since the reset, in bytes."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@contextmanager
def _watched(peak: list[float]) -> Iterator[None]:
    """Raise ``peak`` to the resident set again and again, in a thread."""
    import psutil  # both hosts with trainings bring it

    process, done = psutil.Process(), threading.Event()

    def look() -> None:
        peak[0] = max(peak[0], process.memory_info().rss / 1e6)

    def watch() -> None:
        while not done.wait(_INTERVAL):
            look()

    look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()
