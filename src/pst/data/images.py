"""Images as square uint8 tensors: what a split lists, what a sample is, decoding, squaring."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pst.data.bands import read_bands
from pst.io.image_file import CorruptImageError, read_rgb

__all__ = ["GREY", "CorruptImageError", "Sample", "Split", "centre_square", "decode", "fitted", "letterbox"]

GREY = 114
"""Fills what a letterboxed image leaves free."""

_WIDEST = 4  # sides of a square beyond which nothing is resized that would be cut off


class Split(NamedTuple):
    """One split of a data set: files and raw targets, nothing decoded.

    Attributes:
        images: n files.
        targets: n targets: a class index, a `pst.data.objects.Boxes`, or the file of a mask.
        classes: Names, in the order of the indices.
    """

    images: list[Path]
    targets: list[Any]
    classes: tuple[str, ...]


class Sample(NamedTuple):
    """One image as the models get it.

    Attributes:
        image: (C, S, S) uint8; RGB for three channels.
        target: Whatever the task trains with.
        size: (width, height) of the file in pixels.
    """

    image: Tensor
    target: Any
    size: tuple[int, int]


def decode(path: str | Path, *, channels: int = 3) -> Tensor:
    """Read one image as (channels, H, W) uint8: RGB for 3, grey for 1, others as `read_bands` finds them.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptImageError: It cannot be decoded, or does not have the channels.
    """
    return F.pil_to_tensor(read_rgb(path)) if channels == 3 else read_bands(path, channels)


def centre_square(image: Tensor, edge: int) -> Tensor:
    """Resize so that the shorter side is ``edge`` pixels long, then keep the centre: (C, H, W) to (C, edge, edge).

    Of an image that is more than four times as long as it is wide, only the middle is resized: the memory does not
    grow with its length.
    """
    height, width = image.shape[-2:]
    longest = _WIDEST * min(height, width)
    if max(height, width) > longest:
        image = F.center_crop(image, [min(height, longest), min(width, longest)])
    return F.center_crop(F.resize(image, [edge], antialias=True), [edge, edge])


def letterbox(image: Tensor, edge: int) -> Tensor:
    """Resize so that the longer side is ``edge`` pixels long, and fill the right or lower rest with grey.

    Args:
        image: (C, H, W) uint8.
        edge: In pixels.

    Returns:
        (C, edge, edge) uint8.
    """
    size = fitted(image.shape[1], image.shape[2], edge)
    out = torch.full((len(image), edge, edge), GREY, dtype=torch.uint8)
    out[:, : size[0], : size[1]] = F.resize(image, list(size), antialias=True)
    return out


def fitted(height: int, width: int, edge: int) -> tuple[int, int]:
    """Height and width of an image once its longer side is ``edge`` pixels long."""
    scale = edge / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
