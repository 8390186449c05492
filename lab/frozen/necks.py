"""The rivals of `pst.PSTPyramid`: necks from an OrderedDict of maps to one of as many maps of one width."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from pst.modules import ConvNormAct

Maps = OrderedDict[str, Tensor]


class FPN(FeaturePyramidNetwork):
    """torchvision's, with a BatchNorm behind each convolution, as all other necks here have.

    Args:
        in_channels: Of the maps, finest first.
        width: Of each map that comes out.
        norm: False for torchvision's own default, without BatchNorm, which ``neck="fpn"`` of `pst` builds.
    """

    def __init__(self, in_channels: Sequence[int], width: int, *, norm: bool = True) -> None:
        super().__init__(list(in_channels), width, norm_layer=nn.BatchNorm2d if norm else None)


class PAN(nn.Module):
    """`FPN`, and a path from fine to coarse behind it (arXiv 1803.01534)."""

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.fpn = FPN(in_channels, width)
        steps = range(len(in_channels) - 1)
        self.down = nn.ModuleList(Strided(width) for _ in steps)
        self.smooth = nn.ModuleList(ConvNormAct(width, width, 3) for _ in steps)

    def forward(self, maps: Maps) -> Maps:
        """Maps, finest first -> as many of ``width`` channels."""
        out = self.fpn(maps)
        names = list(out)
        for i, (down, smooth) in enumerate(zip(self.down, self.smooth, strict=True)):
            out[names[i + 1]] = smooth(out[names[i + 1]] + down(out[names[i]]))
        return out


class Strided(nn.Sequential):
    """3×3 convolution of stride 2, BatchNorm, SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())


class BiFPN(nn.Module):
    """Cells of EfficientDet's BiFPN with fast normalised fusion (arXiv 1911.09070, section 3.3)."""

    def __init__(self, in_channels: Sequence[int], width: int, cells: int = 3) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvNormAct(c, width, act=False) for c in in_channels)
        self.cells = nn.ModuleList(_Cell(len(in_channels), width) for _ in range(cells))

    def forward(self, maps: Maps) -> Maps:
        """Maps, finest first -> as many of ``width`` channels."""
        levels = [conv(x) for conv, x in zip(self.laterals, maps.values(), strict=True)]
        for cell in self.cells:
            levels = cell(levels)
        return OrderedDict(zip(maps, levels, strict=True))


class _Cell(nn.Module):
    def __init__(self, levels: int, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(_Fusion(2, width) for _ in range(levels - 1))
        # the coarsest level has no fusion on the way down, so two inputs on the way up
        self.up = nn.ModuleList(_Fusion(3 if i < levels - 2 else 2, width) for i in range(levels - 1))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        middle = list(levels)
        for i in reversed(range(len(levels) - 1)):
            larger = F.interpolate(middle[i + 1], levels[i].shape[2:], mode="nearest")
            middle[i] = self.down[i](levels[i], larger)
        out = [middle[0]]
        for i, fusion in enumerate(self.up, 1):
            smaller = F.adaptive_max_pool2d(out[-1], levels[i].shape[2:])
            parts = (levels[i], middle[i], smaller) if i < len(levels) - 1 else (levels[i], smaller)
            out.append(fusion(*parts))
        return out


class _Fusion(nn.Module):
    """Weighted mean, SiLU, and a separable 3×3 convolution."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = ConvNormAct(width, width, act=False)

    def forward(self, *maps: Tensor) -> Tensor:
        weight = self.weight.relu()
        weight = weight / (weight.sum() + 1e-4)
        mixed = torch.stack([w * x for w, x in zip(weight, maps, strict=True)]).sum(0)
        return self.pointwise(self.depthwise(F.silu(mixed)))


class PooledFPN(nn.Module):
    """Pyramid pooling of the coarsest map (arXiv 1612.01105), then `FPN`: UPerNet's neck (arXiv 1807.10221)."""

    def __init__(self, in_channels: Sequence[int], width: int, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        top = in_channels[-1]
        self.bins = tuple(bins)
        self.pools = nn.ModuleList(ConvNormAct(top, width // 2) for _ in bins)
        self.mix = ConvNormAct(top + len(bins) * (width // 2), width, 3)
        self.fpn = FPN([*in_channels[:-1], width], width)

    def forward(self, maps: Maps) -> Maps:
        """Maps, finest first -> as many of ``width`` channels."""
        name, x = next(reversed(maps.items()))
        size: Any = x.shape[2:]
        parts = [x]
        for bin_, conv in zip(self.bins, self.pools, strict=True):
            pooled = conv(F.adaptive_avg_pool2d(x, bin_))
            parts.append(F.interpolate(pooled, size, mode="bilinear", align_corners=False))
        return self.fpn(OrderedDict(maps) | {name: self.mix(torch.cat(parts, 1))})
