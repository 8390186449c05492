"""No neck at all, with the interface of one: what a pyramid has to be better than."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pst.modules.conv import ConvNormAct


class Laterals(nn.Module):
    """A 1×1 convolution with BatchNorm and SiLU of each map, and nothing from one to another.

    Args:
        in_channels: Of the maps.
        out_channels: Of every result.
        extra_blocks: As of `PSTPyramid`.

    Examples:
        >>> import torch
        >>> from pst.modules import Laterals
        >>> neck = Laterals([32, 64], 48).eval()
        >>> maps = {"3": torch.rand(1, 32, 24, 32), "4": torch.rand(1, 64, 12, 16)}
        >>> [tuple(y.shape) for y in neck(maps).values()]
        [(1, 48, 24, 32), (1, 48, 12, 16)]
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, extra_blocks: nn.Module | None = None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNormAct(c, out_channels) for c in in_channels)
        self.extra_blocks = extra_blocks

    def forward(self, maps: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """Maps (B, in_channels[i], H, W), finest first -> as many (B, out_channels, H, W), and those of the extra."""
        names = list(maps)
        results = [conv(x) for conv, x in zip(self.convs, maps.values(), strict=True)]
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, list(maps.values()), names)
        return OrderedDict(zip(names, results, strict=True))
