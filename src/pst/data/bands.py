"""Images of another number of channels than three: which files hold them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F


def read_bands(image: Image.Image, channels: int) -> Tensor:
    """The channels of an opened image, as they are stored.

    One channel is grey, and any picture can be made that. Others must be there: two are grey and alpha, four are red,
    green, blue and alpha (PNG, WebP, TIFF), or the four bands of a TIFF, whatever they mean. Any number can be the
    pages of a TIFF, one channel each, as Ultralytics reads multispectral images.

    Args:
        image: Opened by Pillow.
        channels: Wanted, at least 1.

    Returns:
        (channels, H, W) uint8.

    Raises:
        ValueError: The image has other channels.
    """
    if channels == 1:
        return F.pil_to_tensor(image.convert("L"))
    pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if pages == channels:
        return torch.stack([_page(image, i) for i in range(pages)])
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    found = len(image.getbands())
    if pages > 1 or found != channels:
        what = f"{pages} pages" if pages > 1 else f"{found} channels ({image.mode})"
        raise ValueError(f"it has {what}, wanted are images of {channels} channels: see in_chans in docs/train.md")
    return F.pil_to_tensor(image)


def _page(image: Image.Image, number: int) -> Tensor:
    """(H, W) uint8 of one page; of 16 bits the upper eight."""
    image.seek(number)
    if image.mode.startswith("I;16"):
        return torch.from_numpy((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode not in ("L", "1"):
        raise ValueError(f"page {number + 1} is of mode {image.mode}, wanted is one channel of 8 or 16 bits a page")
    return F.pil_to_tensor(image.convert("L"))[0]
