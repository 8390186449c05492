"""The order of the training images, and the loader that deals them out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Sampler
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


def as_it_is(batch: Any) -> Batch:
    """Collation for a data set that gives whole batches."""
    return batch


def training_loader(data: Images, order: Order, config: Config, accelerator: Accelerator) -> DataLoader[Batch]:
    """Batches in ``order``; an incomplete last one is dropped unless there is no other."""
    return DataLoader(
        data,
        batch_size=config.batch,
        sampler=order,
        num_workers=config.workers,
        collate_fn=as_it_is,
        drop_last=len(data) >= config.batch * accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=config.workers > 0,
    )


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
    """Raise what a loader's process refused as it was there: PyTorch puts the whole traceback into its message."""
    try:
        yield
    except (OSError, ValueError) as error:
        said = str(error)
        if "in DataLoader worker process" not in said:
            raise
        raise type(error)(said.strip().rpartition(f"{type(error).__name__}: ")[2]) from error
