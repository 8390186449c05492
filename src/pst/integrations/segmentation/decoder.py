"""From the encoder's maps to one map: a pyramid and the sum of its levels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pst.modules import Laterals, PSTPyramid
from pst.modules.conv import ConvNormAct
from pst.modules.necks import Neck


class SegmentationDecoder(nn.Module):
    """A pyramid and the sum of its levels.

    Args:
        reductions: Of the encoder's maps, finest first; maps finer than ``finest`` are not used.
        channels: Of the encoder's maps.
        pyramid_channels: Width of the pyramid.
        out_channels: Width of the sum.
        neck: "pst", "fpn" or "none".
        finest: Reduction of the finest map that is decoded.
        options: More arguments of the neck.

    Examples:
        >>> decoder = SegmentationDecoder([4, 8], [32, 64], pyramid_channels=64, out_channels=16).eval()
        >>> decoder({"4": torch.rand(1, 32, 24, 32), "8": torch.rand(1, 64, 12, 16)}).shape
        torch.Size([1, 16, 24, 32])
    """

    def __init__(
        self,
        reductions: Sequence[int],
        channels: Sequence[int],
        pyramid_channels: int,
        out_channels: int,
        neck: Neck = "pst",
        finest: int = 4,
        **options: Any,
    ) -> None:
        super().__init__()
        used = {str(r): c for r, c in zip(reductions, channels, strict=True) if r >= finest}
        self.names, self.out_channels = list(used), out_channels
        if neck == "pst":
            self.neck: nn.Module = PSTPyramid(list(used.values()), pyramid_channels, **options)
        elif neck == "none":
            self.neck = Laterals(list(used.values()), pyramid_channels)
        else:
            from torchvision.ops import FeaturePyramidNetwork

            self.neck = FeaturePyramidNetwork(list(used.values()), pyramid_channels, **options)
        self.levels = nn.ModuleList(ConvNormAct(pyramid_channels, out_channels, 3) for _ in used)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Maps by ``str(reduction)`` -> (B, out_channels, H, W), the size of the finest one."""
        fused = self.neck(OrderedDict((name, maps[name]) for name in self.names))  # pyramid_channels each
        levels = [conv(y) for conv, y in zip(self.levels, fused.values(), strict=True)]  # out_channels each
        out = levels[0]
        for y in levels[1:]:
            out = out + F.interpolate(y, out.shape[2:], mode="bilinear", align_corners=False)
        return out
