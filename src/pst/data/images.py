"""Images as square uint8 tensors: what a split lists, what a sample is, decoding, squaring."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pst.io.image_file import as_rgb, grey_bits, opened, orientation, upright
from pst.io.names import counted

GREY = 114
"""Fills what a letterboxed image leaves free."""

_WIDEST = 4  # sides of a square beyond which nothing is resized that would be cut off


class Split(NamedTuple):
    """One split of a data set: files and raw targets, nothing decoded.

    Attributes:
        images: n files.
        targets: n targets: a class index, `Boxes`, or the file of a mask.
        classes: Names, in the order of the indices.
    """

    images: list[Path]
    targets: list[Any]
    classes: tuple[str, ...]


class Boxes(NamedTuple):
    """What one image shows.

    Attributes:
        boxes: (n, 4) float32, left, top, right, bottom as shares of the image's width and height, in [0, 1].
        labels: (n,) int64 class indices.
        crowd: (n,) bool, regions that count neither for nor against a detector.
        segments: Of the n objects, in pixels: a list of polygons x, y, x, y, …, or COCO's uncompressed run lengths
            {"size": [height, width], "counts": […]}. None where they were not asked for.
        size: (width, height) that the annotation states, or None.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    segments: list[Any] | None = None
    size: tuple[int, int] | None = None

    def only(self, keep: Tensor) -> Boxes:
        """The objects for which ``keep``, (n,) bool, is set."""
        segments = None if self.segments is None else [s for s, k in zip(self.segments, keep, strict=True) if k]
        return Boxes(self.boxes[keep], self.labels[keep], self.crowd[keep], segments, self.size)


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
    """Decode the channels of an image, as they are stored, upright.

    Three channels are RGB and one is grey: any picture can be made these. Others must be there: two are grey and alpha,
    four are red, green, blue and alpha (PNG, WebP, TIFF), or the four bands of a TIFF, whatever they mean. Any number
    can be the pages of a TIFF, one channel each, as Ultralytics reads multispectral images. 16 bits keep the high byte.

    Returns:
        (channels, H, W) uint8.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptImageError: It cannot be decoded, or has other channels.
    """
    with opened(path) as image:
        if channels in (1, 3):
            return F.pil_to_tensor(as_rgb(image) if channels == 3 else as_rgb(image).convert("L"))
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        if pages == channels:
            return torch.stack([_page(image, i) for i in range(pages)])
        image.load()
        kept = image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
        found = len(kept.getbands())
        if pages > 1 or found != channels:
            what = f"{pages} pages" if pages > 1 else f"{counted(found, 'channel')} ({image.mode})"
            raise ValueError(
                f"it has {what}, wanted are images of {counted(channels, 'channel')}: see in_chans in docs/train.md"
            )
        return F.pil_to_tensor(upright(kept, orientation(image)))


def _page(image: Image.Image, number: int) -> Tensor:
    """(H, W) uint8 of one page."""
    image.seek(number)
    if grey_bits(image) is None and image.mode not in ("L", "1"):
        raise ValueError(f"page {number + 1} is of mode {image.mode}, wanted is one channel of 8 or 16 bits a page")
    return F.pil_to_tensor(as_rgb(image).convert("L"))[0]


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
