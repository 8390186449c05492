"""The small block that everything else is built of, and a look inside it."""

from __future__ import annotations

from typing import Protocol

import torch
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
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.act(self.bn(self.conv(x)))


def pointwise_affine(block: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Weight (out, in) and bias (out) when ``block`` in eval mode is one affine map of each pixel, else None.

    Understands any block made of a plain 1×1 ``.conv`` and an optional plain ``.bn`` that uses running statistics
    (`ConvNormAct`, Ultralytics' ``Conv`` before and after ``fuse()``). A block with an activation, with any other
    child, with hooks or of quantised layers is None: call it as a whole. Differentiable in the block's parameters.
    """
    children = dict(block.named_children())
    conv, bn, act = children.pop("conv", None), children.pop("bn", None), children.pop("act", nn.Identity())
    if children or type(act) is not nn.Identity or any(_has_hooks(m) for m in block.modules()):
        return None
    if type(conv) is not nn.Conv2d or conv.kernel_size != (1, 1) or conv.groups != 1 or conv.stride != (1, 1):
        return None
    if conv.padding != (0, 0):
        return None
    weight = conv.weight.flatten(1)
    bias = torch.zeros_like(weight[:, 0]) if conv.bias is None else conv.bias
    if bn is None:
        return weight, bias
    if type(bn) is not nn.BatchNorm2d or bn.training or bn.running_mean is None or bn.running_var is None:
        return None
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scale = (bn.running_var.to(dtype) + bn.eps).rsqrt()
    if bn.affine:
        scale = scale * bn.weight
    shift = (bias - bn.running_mean.to(dtype)) * scale
    if bn.affine:
        shift = shift + bn.bias
    return (weight * scale[:, None]).to(weight.dtype), shift.to(weight.dtype)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
