"""Random crops, zooms, flips and colours for whole batches at once, on the device that trains.

One `grid_sample` call serves a batch, whatever the windows: on small images that is several times faster than one
transform for each image. All random numbers come from PyTorch's global generator of the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pst.data.dataset import Batch
from pst.data.images import GREY

_LUMA = (0.299, 0.587, 0.114)


def crop_windows(count: int, smallest: float) -> Tensor:
    """Windows of a random resized crop: share of the area from ``smallest`` to 1, aspect from 3/4 to 4/3.

    Returns:
        (B, 4) float32: left, top, right, bottom as shares of the image, all within it.
    """
    area = torch.empty(count).uniform_(smallest, 1)
    aspect = torch.empty(count).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    size = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
    corner = torch.rand(count, 2) * (1 - size)
    return torch.cat([corner, corner + size], 1)


def zoom_windows(content: Tensor, zoom: float) -> Tensor:
    """Square windows that enlarge by a factor between 1/zoom and zoom, placed on what is not filling.

    Args:
        content: (B, 2), the shares of width and height that the picture covers, from the upper left.
        zoom: At least 1.

    Returns:
        (B, 4) float32: left, top, right, bottom as shares of the image, and beyond it where it is made smaller.
    """
    edge = torch.empty(len(content), 1).uniform_(-math.log(zoom), math.log(zoom)).exp()
    corner = torch.rand(len(content), 2) * (content - edge)
    return torch.cat([corner, corner + edge], 1)


def zoomed(batch: Batch, zoom: float, edge: int) -> tuple[Tensor, Tensor, Tensor]:
    """Letterboxed images at another size and place, some mirrored: (B, C, edge, edge) float, the windows, and which."""
    sizes = batch.sizes.cpu().float()
    windows, flip = zoom_windows(sizes / sizes.amax(1, keepdim=True), zoom), flips(len(sizes))
    return sample(batch.images.float(), windows, flip, edge, fill=GREY), windows, flip


def flips(count: int) -> Tensor:
    """Which of ``count`` images to mirror, (B,) bool: half of them on average."""
    return torch.rand(count) < 0.5


def sample(images: Tensor, windows: Tensor, flip: Tensor, edge: int, *, mode: str = "bilinear", fill: float) -> Tensor:
    """Cut a window out of every image, resize it to a square, and mirror some.

    Args:
        images: (B, C, H, W) float.
        windows: (B, 4), left, top, right, bottom as shares of the image.
        flip: (B,) bool, mirrored left to right.
        edge: Of the result, in pixels.
        mode: "bilinear" or "nearest".
        fill: Value of what lies outside the image.

    Returns:
        (B, C, edge, edge), dtype of ``images``.
    """
    low, high = windows[:, :2], windows[:, 2:]
    centre, half = low + high - 1, high - low  # in the coordinates of grid_sample, where the image is [-1, 1]
    mirror = torch.where(flip, -1.0, 1.0)
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = half[:, 0] * mirror, half[:, 1]
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta.to(images), [len(images), images.shape[1], edge, edge], align_corners=False)
    return F.grid_sample(images - fill, grid, mode=mode, padding_mode="zeros", align_corners=False) + fill


def move_boxes(boxes: Tensor, window: Tensor, flip: bool, edge: int) -> Tensor:
    """What `sample` does to boxes (n, 4) of one image, left, top, right, bottom as shares of it.

    Returns:
        (n, 4) in pixels of the result, not yet clipped to it.
    """
    corner, size = window[:2].repeat(2), (window[2:] - window[:2]).repeat(2)
    moved = (boxes - corner) / size * edge
    if flip:
        moved = torch.stack([edge - moved[:, 2], moved[:, 1], edge - moved[:, 0], moved[:, 3]], 1)
    return moved


def jitter(images: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and saturation of every image by its own factors between 1 ± ``strength``.

    Args:
        images: (B, C, H, W) float in [0, 1]; there is no saturation unless C is 3.
        strength: In [0, 1]; 0 changes nothing.

    Returns:
        The same shape, in [0, 1].
    """
    factors = torch.empty(3, len(images), 1, 1, 1).uniform_(1 - strength, 1 + strength).to(images)
    images = images * factors[0]
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * factors[1]
    if images.shape[1] != len(_LUMA):
        return images.clamp(0, 1)
    grey = (images * images.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    return (grey + (images - grey) * factors[2]).clamp(0, 1)
