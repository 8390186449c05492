"""The small block that everything else is built of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ConvFactory(Protocol):
    """Builds a stride-1, same-size Conv2d + BatchNorm2d + SiLU (SiLU only with ``act``)."""

    def __call__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, groups: int = 1, act: bool = True
    ) -> nn.Module:
        """The block, a Module from (B, in_channels, H, W) to (B, out_channels, H, W)."""
        ...


class ConvNormAct(nn.Module):
    """Conv2d without bias, BatchNorm2d, SiLU: CN of docs/method.md; CN° with ``act=False``.

    Args:
        in_channels: Channels of the input map.
        out_channels: Channels of the output map.
        kernel_size: Odd; the padding keeps the size.
        groups: As in Conv2d.
        act: Whether SiLU follows.
        norm_layer: Called with the number of channels; what it builds stands in BatchNorm2d's place.

    Examples:
        >>> pst.ConvNormAct(32, 64, 3)(torch.randn(1, 32, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
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

    @property
    def folded(self) -> bool:
        """Whether `fold_norm` did so: this class builds its convolution without a bias."""
        return isinstance(self.bn, nn.Identity) and getattr(self.conv, "bias", None) is not None

    def fold_norm(self) -> None:
        """Fold the BatchNorm into the convolution for inference, in float32 at least; see `pst.fuse`.

        Changes nothing where this, the convolution or the norm is not what this class built, or is hooked or patched.
        """
        conv, norm = self.conv, self.bn
        if type(self).forward is not ConvNormAct.forward or "forward" in vars(self):
            return
        if not (_is_plain(conv, nn.Conv2d) and _is_plain(norm, nn.BatchNorm2d) and norm.running_mean is not None):
            return
        wide = torch.promote_types(conv.weight.dtype, torch.float32)
        assert isinstance(norm, nn.BatchNorm2d)  # tells the type checker
        folded = fuse_conv_bn_eval(copy.deepcopy(conv).to(wide).eval(), copy.deepcopy(norm).to(wide))
        self.conv, self.bn = folded.to(conv.weight.dtype), nn.Identity().eval()


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling ``module`` does what ``kind`` does, and nothing else."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) is kind and "forward" not in vars(module) and not any(hooks)
