"""The PST layer as a row of an Ultralytics model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv

from pst.modules import PST

when_unpickled: list[Callable[[], None]] = []  # `plugin` puts `register` here, and imports this file


class PSTRow(PST):
    """`pst.PST` built of Ultralytics' own ``Conv`` and called with a list, as Ultralytics calls a row.

    Its ``fuse()``, activation setting, quantisation and export therefore reach into PST with no special case.
    Loading a pickled one registers the plugin, so that a checkpoint can be trained on where pst is installed, also
    by a process that never called `register`.

    Examples:
        >>> row = PSTRow(64, 128, 96, head_dim=16).eval()
        >>> row([torch.randn(1, 64, 16, 16), torch.randn(1, 128, 8, 8)]).shape
        torch.Size([1, 96, 16, 16])
    """

    # Set on every row by the parser: its number, its sources, its name in logs and its number of parameters.
    i: int
    f: list[int]
    type: str  # pyright: ignore[reportIncompatibleMethodOverride]
    np: int

    def __init__(self, in_channels: int, upper_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__(in_channels, upper_channels, out_channels, conv=host_conv, **options)

    def forward(self, x: list[Tensor] | Tensor, upper: Tensor | None = None, fine: Tensor | None = None) -> Tensor:
        """[(B, C1, H, W), (B, Cu, Hu, Wu)], or the two as separate arguments -> (B, C2, H, W)."""
        if upper is None:
            x, upper = x
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a map or a list of two maps, got {type(x).__name__} and {type(upper).__name__}")
        return super().forward(x, upper, fine)

    def __setstate__(self, state: dict[str, Any]) -> None:
        for call in when_unpickled:
            call()
        super().__setstate__(state)


def host_conv(
    in_channels: int, out_channels: int, kernel_size: int = 1, *, groups: int = 1, act: bool = True
) -> nn.Module:
    """Ultralytics' ``Conv`` behind the signature of `pst.modules.ConvFactory`."""
    return Conv(in_channels, out_channels, kernel_size, g=groups, act=act)
