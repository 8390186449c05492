"""Images of another number of channels than three: which files hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pst.io.image_file import as_rgb, grey_bits, opened, orientation, upright


def read_bands(path: str | Path, channels: int) -> Tensor:
    """Decode the channels of an image, as they are stored, upright.

    One channel is grey, and any picture can be made that. Others must be there: two are grey and alpha, four are red,
    green, blue and alpha (PNG, WebP, TIFF), or the four bands of a TIFF, whatever they mean. Any number can be the
    pages of a TIFF, one channel each, as Ultralytics reads multispectral images. 16 bits keep the high byte.

    Args:
        path: Of an image.
        channels: Wanted, at least 1.

    Returns:
        (channels, H, W) uint8.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptImageError: It cannot be decoded, or has other channels.
    """
    with opened(path) as image:
        if channels == 1:
            return F.pil_to_tensor(as_rgb(image).convert("L"))
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        if pages == channels:
            return torch.stack([_page(image, i) for i in range(pages)])
        image.load()
        kept = image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
        found = len(kept.getbands())
        if pages > 1 or found != channels:
            what = f"{pages} pages" if pages > 1 else f"{found} channels ({image.mode})"
            raise ValueError(f"it has {what}, wanted are images of {channels} channels: see in_chans in docs/train.md")
        return F.pil_to_tensor(upright(kept, orientation(image)))


def _page(image: Image.Image, number: int) -> Tensor:
    """(H, W) uint8 of one page."""
    image.seek(number)
    bits = grey_bits(image)
    if bits is None and image.mode not in ("L", "1"):
        raise ValueError(f"page {number + 1} is of mode {image.mode}, wanted is one channel of 8 or 16 bits a page")
    image.load()
    grey = image.convert("L") if bits is None else Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    return F.pil_to_tensor(grey)[0]
