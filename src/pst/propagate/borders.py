"""The last step, from the shares of labels in positions of the features to a label for each pixel.

Two things that are finer than the features say where a border runs: the colours of the frame itself, which shares
follow by a guided filter (He and Sun, "Fast Guided Filter", arXiv:1505.00996), and the pixels of the annotated mask,
which are put where the attention finds their places again. Letters: h × w positions of the features, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.propagate.memory import UNKNOWN

REACH = 1  # positions on each side over which a share is fitted to colours
SMOOTH = 3e-4  # variance of colours, from 0 to 1, below which a share is averaged rather than fitted
MEDIAN = 2  # positions on each side of which displacements take their median
AGREEING = 4.0  # positions by which a displacement may differ from its median, about
MOVED = 1 / 3  # weight of the moved mask where displacements agree


class Guide:
    """A frame whose borders shares follow: in each small window a share is a linear function of the colours.

    Args:
        image: (3, H, W) RGB, float32 from 0 to 1.
        cells: h and w.
    """

    def __init__(self, image: Tensor, cells: tuple[int, int]) -> None:
        self.image = image - image.mean((1, 2), keepdim=True)  # near zero, variances are exact
        self._cells = F.interpolate(self.image[None], cells, mode="area")[0]
        self._mean = _around(self._cells)
        products = self._cells[:, None] * self._cells
        covariance = _around(products.flatten(0, 1)).unflatten(0, (3, 3)) - self._mean[:, None] * self._mean
        covariance = covariance.permute(2, 3, 0, 1) + SMOOTH * torch.eye(3, device=image.device)
        self._inverse = torch.linalg.inv(covariance).permute(2, 3, 0, 1).contiguous()

    def enlarge(self, share: Tensor) -> Tensor:
        """A share (h, w) at each pixel, (H, W); a little below 0 or above 1 in places. Linear in ``share``."""
        means = _around(torch.cat([share[None], self._cells * share]))
        covariance = means[1:] - self._mean * means[0]
        slope = (self._inverse * covariance).sum(1)
        fitted = _around(torch.cat([slope, (means[0] - (slope * self._mean).sum(0))[None]]))
        full = _resized(fitted[3:], self.image.shape[1:])[0]
        for colour, line in zip(self.image, fitted[:3], strict=True):  # one by one: in place, and it fits a cache
            full.addcmul_(colour, _resized(line[None], full.shape)[0])
        return full


class Moved:
    """A mask at its own resolution, its pixels where the attention finds their places.

    Args:
        mask: (H, W) uint8, `UNKNOWN` unlabelled.
        place: (2, h, w), y and x from 0 to 1: the place in the mask's frame that each position of the new one is at.

    Attributes:
        weight: (H, W) from 0 to `MOVED`: less where neighbours are at places that do not go together, as in what was
            not there before.
    """

    def __init__(self, mask: Tensor, place: Tensor) -> None:
        cells, size = place.shape[1:], mask.shape
        found = place - _centres(cells, place)
        smooth = _median(found)
        apart = (found - smooth) * torch.tensor(cells, dtype=place.dtype, device=place.device)[:, None, None]
        agreeing = torch.exp(-apart.square().sum(0) / AGREEING**2)
        self.mask = mask
        self.weight = MOVED * _resized(agreeing[None], size)[0]
        at = _resized(smooth, size) + _centres(size, place)
        self._at = (at.flip(0).permute(1, 2, 0) * 2 - 1)[None]

    def share(self, label: int) -> Tensor:
        """Of a label in each pixel, (H, W) from 0 to 1: between pixels of the mask, by bilinear interpolation."""
        own = (self.mask == label).to(self._at)[None, None]
        return F.grid_sample(own, self._at, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]


def places(cells: tuple[int, int], like: Tensor) -> Tensor:
    """(3, h, w), to be carried beside the shares of one frame, zeros beside those of others; see `place_of`."""
    return torch.cat([torch.ones_like(like[:1, :1, :1]).expand(1, *cells), _centres(cells, like)])


def place_of(carried: Tensor) -> Tensor:
    """(2, h, w): the mean place in that frame of each position, from `places` as they were carried."""
    return carried[1:] / carried[:1].clamp_min(torch.finfo(carried.dtype).tiny)


def best_labels(shares: Mapping[int, Tensor], guide: Guide, moved: Moved) -> tuple[Tensor, Tensor]:
    """The label of each pixel. Labels are taken one by one: all at once would be (K, H, W).

    Args:
        shares: (h, w) by label; with the unlabelled they sum to one.
        guide: Of the frame.
        moved: The nearest mask.

    Returns:
        (H, W) uint8 labels, `UNKNOWN` where all shares are zero; and (H, W) float32 shares of these, from 0 to 1.
    """
    size = guide.image.shape[1:]
    best, total, labelled = torch.zeros(3, *size, device=guide.image.device)
    mask = torch.full(size, UNKNOWN, dtype=torch.uint8, device=best.device)
    for label, share in shares.items():
        guided = guide.enlarge(share)
        labelled += guided
        total += guided.clamp_min_(0)
        full = guided.lerp_(moved.share(label), moved.weight)
        mask.masked_fill_(full > best, label)
        torch.maximum(best, full, out=best)
    total += (1 - labelled).clamp_min(0)  # the unlabelled: what is linear sums to one
    return mask, best / torch.lerp(total, torch.ones_like(total), moved.weight)


def _around(maps: Tensor) -> Tensor:
    """(C, h, w): mean of each position and its neighbours."""
    return F.avg_pool2d(maps[None], 2 * REACH + 1, 1, REACH, count_include_pad=False)[0]


def _median(maps: Tensor) -> Tensor:
    """(C, h, w): median of each position and its neighbours."""
    width = 2 * MEDIAN + 1
    padded = F.pad(maps[None], [MEDIAN] * 4, mode="replicate")
    return F.unfold(padded, width).reshape(len(maps), width**2, *maps.shape[1:]).median(1).values


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps[None], tuple(size), mode="bilinear", align_corners=False)[0]


def _centres(size: tuple[int, ...], like: Tensor) -> Tensor:
    """(2, …) y and x from 0 to 1 of the middle of each position."""
    y, x = ((torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n for n in size)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))
