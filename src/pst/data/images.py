"""Images as square uint8 tensors: what a split lists, what a sample is, decoding, squaring."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pst.data.bands import read_bands

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
        image: (C, S, S) uint8; RGB for three channels.
        target: Whatever the task trains with.
        size: (width, height) of the file in pixels.
    """

    image: Tensor
    target: Any
    size: tuple[int, int]


class CorruptImageError(OSError):
    """A file that is there but cannot be decoded; the message names it."""


def decode(path: Path, mode: str = "RGB", *, channels: int = 3) -> Tensor:
    """Read one image.

    Args:
        path: Any format that Pillow reads.
        mode: "RGB", or "P" for a mask, whose values are then the stored indices.
        channels: Of an image: 3 for RGB, 1 for grey, others as `read_bands` finds them.

    Returns:
        (channels, H, W) uint8, or (H, W) uint8 for a mask.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptImageError: It cannot be decoded, or does not have the channels.
    """
    try:
        with Image.open(path) as image:
            if mode == "P":
                return F.pil_to_tensor(image if image.mode in ("L", "P") else image.convert("L"))[0]
            return F.pil_to_tensor(image.convert("RGB")) if channels == 3 else read_bands(image, channels)
    except FileNotFoundError:
        raise
    except _DECODING_ERRORS as error:
        raise CorruptImageError(f"{path}: {error}") from error


def centre_square(image: Tensor, edge: int) -> Tensor:
    """Resize so that the shorter side is ``edge`` pixels long, then keep the centre: (C, H, W) to (C, edge, edge)."""
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
