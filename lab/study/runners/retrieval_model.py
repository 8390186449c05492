"""The model that solves the synthetic task of `retrieval_task`: a PST layer, and what it cannot do without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import pst
from pst.modules import ConvNormAct

UPPER_MAPS = ("pooled", "rotated", "learned")
REDUCTIONS = ("own", "shared")


class Retriever(nn.Module):
    """A coarse map made of the fine one, a `pst.PST` of both, and a 1×1 convolution to the content.

    Args:
        channels: Of the fine map.
        width: Of the content.
        upper: How the coarse map is made: "pooled" averages siblings; "rotated" maps the averages to another space, by
            a fixed random rotation and shift; "learned" is a convolution over the four, trained with the rest.
        upper_channels: Of the learned map; the others have ``channels``.
        reductions: "own" is PST as it is, with a reduction for each map; "shared" is one linear reduction of both, so
            that with "pooled" a coarse token stays exactly the average of its children.
        dim: Hidden width of the PST layer.

    Raises:
        ValueError: An option is unknown, or shared reductions meet maps of different widths.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        upper: str,
        upper_channels: int = 32,
        reductions: str = "own",
        dim: int = 64,
    ) -> None:
        super().__init__()
        if upper not in UPPER_MAPS:
            raise ValueError(f"upper must be one of {list(UPPER_MAPS)}, got {upper!r}")
        if reductions not in REDUCTIONS:
            raise ValueError(f"reductions must be one of {list(REDUCTIONS)}, got {reductions!r}")
        upper_channels = upper_channels if upper == "learned" else channels
        if reductions == "shared" and upper_channels != channels:
            raise ValueError(f"shared reductions need maps of one width, got {channels} and {upper_channels} channels")
        self.upper = _upper_map(upper, channels, upper_channels)
        self.fuse = pst.PST(channels, upper_channels, 2 * dim)
        if reductions == "shared":
            shared: Any = ConvNormAct(channels, dim, act=False, norm_layer=nn.Identity)
            self.fuse.reduce = self.fuse.reduce_upper = shared
        self.head = nn.Conv2d(2 * dim, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, 16, 16) -> (B, width, 16, 16)."""
        return self.head(self.fuse(maps, self.upper(maps)))


def _upper_map(kind: str, channels: int, upper_channels: int) -> nn.Module:
    if kind == "learned":
        return nn.Conv2d(channels, upper_channels, 2, stride=2)
    if kind == "pooled":
        return nn.AvgPool2d(2)
    return nn.Sequential(nn.AvgPool2d(2), Rotation(channels))


class Rotation(nn.Module):
    """A fixed random rotation of the channels, followed by a fixed random shift.

    Args:
        channels: C.
    """

    matrix: Tensor
    shift: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("matrix", nn.init.orthogonal_(torch.empty(channels, channels)))
        self.register_buffer("shift", torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return torch.einsum("dc,bchw->bdhw", self.matrix, x) + self.shift
