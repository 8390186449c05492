"""Images as square uint8 tensors: decoding, squaring, the check for corrupt files, and a data set of whole batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

GREY = 114
"""Fills what a letterboxed image leaves free."""


# All that Pillow raises, and ImportError: once Ultralytics is imported, Image.open asks for its HEIF reader.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, ImportError)


class Split(NamedTuple):
    """One split of a data set: files and raw targets, nothing decoded.

    Attributes:
        images: n files.
        targets: n targets: a class index, a `pst.data.boxes.Boxes`, or the file of a mask.
        classes: Names, in the order of the indices.
    """

    images: list[Path]
    targets: list[Any]
    classes: tuple[str, ...]


class Sample(NamedTuple):
    """One image as the models get it.

    Attributes:
        image: (3, S, S) uint8, RGB.
        target: Whatever the task trains with.
        size: (width, height) of the file in pixels.
    """

    image: Tensor
    target: Any
    size: tuple[int, int]


class Batch(NamedTuple):
    """Samples side by side.

    Attributes:
        images: (B, 3, S, S) uint8.
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


class CorruptImageError(OSError):
    """A file that is there but cannot be decoded; the message names it."""


def decode(path: Path, mode: str = "RGB") -> Tensor:
    """Read one image.

    Args:
        path: Any format that Pillow reads.
        mode: "RGB", or "P" for a mask, whose values are then the stored indices.

    Returns:
        (3, H, W) uint8, or (H, W) uint8 for a mask.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptImageError: It cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            if mode == "P":
                return F.pil_to_tensor(image if image.mode in ("L", "P") else image.convert("L"))[0]
            return F.pil_to_tensor(image.convert("RGB"))
    except FileNotFoundError:
        raise
    except _DECODING_ERRORS as error:
        raise CorruptImageError(f"{path}: {error}") from error


def centre_square(image: Tensor, edge: int) -> Tensor:
    """Resize so that the shorter side is ``edge`` pixels long, then keep the centre: (3, H, W) to (3, edge, edge)."""
    return F.center_crop(F.resize(image, [edge], antialias=True), [edge, edge])


def letterbox(image: Tensor, edge: int) -> Tensor:
    """Resize so that the longer side is ``edge`` pixels long, and fill the right or lower rest with grey.

    Args:
        image: (3, H, W) uint8.
        edge: In pixels.

    Returns:
        (3, edge, edge) uint8.
    """
    size = fitted(image.shape[1], image.shape[2], edge)
    out = torch.full((3, edge, edge), GREY, dtype=torch.uint8)
    out[:, : size[0], : size[1]] = F.resize(image, list(size), antialias=True)
    return out


def fitted(height: int, width: int, edge: int) -> tuple[int, int]:
    """Height and width of an image once its longer side is ``edge`` pixels long."""
    scale = edge / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


class Images(Dataset[Batch]):
    """A split whose samples come in whole batches, from memory or from disk.

    Args:
        files: The images' files.
        load: Reads sample i; raises `CorruptImageError` for a file that cannot be decoded.
        cache: Decode everything now and keep it.
        check: Decode everything now.
        skip_corrupt: Leave corrupt images out.

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
