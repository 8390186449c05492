"""The small block that everything else is built of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn


class ConvFactory(Protocol):
    """Builds a stride-1, same-size Conv2d + BatchNorm2d + SiLU (SiLU only with ``act``)."""

    def __call__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, groups: int = 1, act: bool = True
    ) -> nn.Module:
        """The block, a Module from (B, in_channels, H, W) to (B, out_channels, H, W)."""
        ...


class ConvNormAct(nn.Module):
    """Conv2d without bias, BatchNorm2d, SiLU: CN of the spec; CN° with ``act=False``.

    Args:
        in_channels: Channels of the input map.
        out_channels: Channels of the output map.
        kernel_size: Odd; the padding keeps the size.
        groups: As in Conv2d.
        act: Whether SiLU follows.
        norm_layer: Called with the number of channels; what it builds stands in BatchNorm2d's place.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        groups: int = 1,
        act: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, groups=groups, bias=False)
        self.bn = norm_layer(out_channels)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.act(self.bn(self.conv(x)))
