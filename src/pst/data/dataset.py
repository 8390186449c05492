"""A data set that gives whole batches, from memory or from disk, and checks its images for corrupt files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pst.data.images import Sample
from pst.io.image_file import CorruptImageError

_LOG = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Samples side by side.

    Attributes:
        images: (B, C, S, S) uint8.
        targets: A tensor where every target is one, else a list of B.
        sizes: (B, 2) int64, width and height of the files in pixels.
        indices: (B,) int64, positions in the data set.
    """

    images: Tensor
    targets: Any
    sizes: Tensor
    indices: Tensor

    def to(self, device: torch.device) -> Batch:
        """Images, and targets that are one tensor, on a device; lists of small tensors stay where they are."""
        targets = self.targets.to(device, non_blocking=True) if isinstance(self.targets, Tensor) else self.targets
        return self._replace(images=self.images.to(device, non_blocking=True), targets=targets)


class Images(Dataset[Batch]):
    """A split whose samples come in whole batches, from memory or from disk.

    Args:
        files: The images' files.
        load: Reads sample i; raises `CorruptImageError` for a file that cannot be decoded.
        cache: Decode everything now and keep it.
        check: Decode everything now.
        skip_corrupt: Leave corrupt images out; the log counts them and names the first.

    Attributes:
        files: Of the samples that are left.
        kept: Position of each of them in what was given.
        corrupt: Why the others were left out.

    Raises:
        ValueError: Images are corrupt and ``skip_corrupt`` is not set (the message names and counts them), or none
            is left.
    """

    def __init__(
        self,
        files: Sequence[Path],
        load: Callable[[int], Sample],
        *,
        cache: bool = False,
        check: bool = True,
        skip_corrupt: bool = False,
    ) -> None:
        self.load = load
        self.files: list[Path] = list(files)
        self.kept: list[int] = list(range(len(files)))
        self.corrupt: list[str] = []
        self.memory: Batch | None = None
        if cache or check:
            self._read_all(keep=cache, skip_corrupt=skip_corrupt)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """One batch; the data loader asks for whole batches where a data set has this method."""
        index = torch.as_tensor(indices)
        if self.memory is None:
            return _stack([self.load(self.kept[i]) for i in indices], index)
        targets = self.memory.targets
        picked = targets[index] if isinstance(targets, Tensor) else [targets[i] for i in indices]
        return Batch(self.memory.images[index], picked, self.memory.sizes[index], index)

    def _read_all(self, *, keep: bool, skip_corrupt: bool) -> None:
        def attempt(i: int) -> Sample | str | None:
            try:
                sample = self.load(i)
            except CorruptImageError as error:
                return str(error)
            return sample if keep else None

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            results = list(pool.map(attempt, self.kept))
        self.corrupt = [result for result in results if isinstance(result, str)]
        if self.corrupt and not skip_corrupt:
            named = "\n  ".join(self.corrupt[:10]) + ("\n  …" if len(self.corrupt) > 10 else "")
            raise ValueError(
                f"{len(self.corrupt)} of {len(results)} images cannot be decoded:\n  {named}\n"
                "Repair or remove them, or pass --skip-corrupt (skip_corrupt=true) to go on without them."
            )
        if self.corrupt:
            _LOG.warning("left out %d of %d images, the first: %s", len(self.corrupt), len(results), self.corrupt[0])
        self.kept = [i for i, result in enumerate(results) if not isinstance(result, str)]
        self.files = [self.files[i] for i in self.kept]
        if not self.kept:
            raise ValueError("no image can be decoded: nothing to train or validate on")
        if keep:
            samples = [result for result in results if isinstance(result, Sample)]
            self.memory = _stack(samples, torch.arange(len(samples)))


def _stack(samples: Sequence[Sample], index: Tensor) -> Batch:
    targets: Any = [sample.target for sample in samples]
    if isinstance(targets[0], int):
        targets = torch.tensor(targets)
    elif isinstance(targets[0], Tensor):
        targets = torch.stack(targets)
    images = torch.stack([sample.image for sample in samples])
    return Batch(images, targets, torch.tensor([sample.size for sample in samples]), index)
