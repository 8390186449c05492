"""Levels of several resolutions from the one map of a plain vision transformer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of a map (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """The simple feature pyramid of ViTDet (arXiv 2203.16527, section 3): every level is made of the same map.

    A finer level comes of 2×2 transposed convolutions of stride 2, one for each doubling, with norm and GELU between
    two of them; each halves the channels. The map itself is the level of its own stride; coarser ones are its 2×2 max
    pooling of stride 2, an odd row or column by itself. A 1×1 and a 3×3 convolution to ``out_channels`` follow on each
    level, each with a norm. Norms are LayerNorms over channels.

    Args:
        in_channels: Of the map.
        stride: Pixels of the image per position of the map, a power of two.
        reductions: Of the levels, powers of two.
        out_channels: Of each level.
    """

    def __init__(self, in_channels: int, stride: int, reductions: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleDict({str(r): _level(in_channels, stride, r, out_channels) for r in reductions})

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Map (B, in_channels, h, w) -> level (B, out_channels, ⌈h·stride/r⌉, ⌈w·stride/r⌉) by ``str(r)``."""
        return OrderedDict((name, level(x)) for name, level in self.levels.items())


class _Halved(nn.Module):
    """2×2 max pooling of stride 2; what is left over at an odd side is pooled by itself."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        return F.max_pool2d(x, 2)


def _level(in_channels: int, stride: int, reduction: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = in_channels
    while reduction < stride:
        if layers:
            layers += [ChannelNorm(channels), nn.GELU()]
        half = max(1, channels // 2)
        layers.append(nn.ConvTranspose2d(channels, half, 2, stride=2))
        channels, reduction = half, 2 * reduction
    while reduction > stride:
        layers.append(_Halved())
        reduction //= 2
    layers += [nn.Conv2d(channels, out_channels, 1, bias=False), ChannelNorm(out_channels)]
    layers += [nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), ChannelNorm(out_channels)]
    return nn.Sequential(*layers)
