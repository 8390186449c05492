"""The order of the images, and the loaders that deal them out."""

from __future__ import annotations

import math
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from pst.data.dataset import Batch, Images
from pst.profile.bar import bar
from pst.train.config import Config
from pst.train.state import Progress


class Order(Sampler[int]):
    """A permutation that follows from seed and epoch alone, the same in all processes.

    Attributes:
        epoch: Set it before each pass.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.count, generator=generator).tolist()


_KILLED = re.compile(r"DataLoader worker \(pid.*(exited unexpectedly|is killed by signal)")


def _as_it_is(batch: Any) -> Batch:
    """Collation for a data set that gives whole batches."""
    return batch


def _leave_interrupts(_: int) -> None:
    """Ctrl+C reaches all processes of a terminal: the one that trains ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_loader(data: Images, order: Order, config: Config, accelerator: Accelerator) -> DataLoader[Batch]:
    """Batches in ``order``; an incomplete last one is dropped unless there is no other."""
    return DataLoader(
        data,
        batch_size=config.batch,
        sampler=order,
        num_workers=config.workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_interrupts,
        drop_last=len(data) >= config.batch * accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=config.workers > 0,
    )


def plain_loader(data: Dataset[Batch], config: Config) -> DataLoader[Batch]:
    """All of ``data`` in its order, in batches."""
    return DataLoader(
        data,
        batch_size=config.batch,
        num_workers=config.workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_interrupts,
    )


def dealt(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a loader.

    Ctrl+C waits while the loader's processes start, for Python drops it in a fork; a second one does not wait.
    """
    batches = iter(loader)
    with _interrupts_wait():
        first = next(batches, None)
    if first is not None:
        yield first
        yield from batches


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():  # not Python's; not interrupted
        yield
        return
    waiting: list[tuple[int, Any]] = []

    def keep(number: int, frame: Any) -> None:
        if waiting and callable(before):
            before(number, frame)
        waiting.append((number, frame))

    signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting and callable(before):
        before(*waiting[0])


def epoch_bar(
    loader: Iterable[Batch], batches: int, steps: int, progress: Progress, config: Config, enabled: bool
) -> tqdm[Batch]:
    """The rest of an epoch under a progress bar, whose total is what will be done: ``max_steps`` may end it early.

    Args:
        loader: What is left of the epoch.
        batches: Of a whole epoch.
        steps: Optimizer steps of the whole run.
        progress: Where the run is.
        config: Settings of the run.
        enabled: False draws nothing.
    """
    epochs = math.ceil(steps / math.ceil(batches / config.accumulate))
    total = min(batches, progress.batch + (steps - progress.step) * config.accumulate)
    return bar(loader, f"epoch {progress.epoch + 1}/{epochs}", total=total, done=progress.batch, enabled=enabled)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raise what a loader's process refused as it was there: PyTorch puts the whole traceback into its message.

    PyTorch says at any time, not only between batches, that a process was killed.

    Raises:
        OSError: A process was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not _KILLED.search(str(error)):
            raise
        raise OSError(
            "a process that reads images was killed, perhaps for want of memory: set fewer workers= (0: none but this "
            "one); a training goes on with --resume"
        ) from error
    except (OSError, ValueError) as error:
        said = str(error)
        if "in DataLoader worker process" not in said:
            raise
        raise type(error)(said.strip().rpartition(f"{type(error).__name__}: ")[2]) from error
