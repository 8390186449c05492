"""The small block that everything else is built of, and a look inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
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


_PARTS = {"conv", "bn", "act"}
LARGE = 2**14  # numbers in a map from which `project` costs less than BatchNorm's own pass


class Folded(NamedTuple):
    """A convolution that does the work of a block in eval mode.

    Attributes:
        conv: The block's own, for its stride, padding and groups.
        weight: (out, in / groups, kernel, kernel), BatchNorm folded in.
        bias: (out) or None.
    """

    conv: nn.Conv2d
    weight: Tensor
    bias: Tensor | None


def fold(block: nn.Module) -> Folded | None:
    """One convolution that is the same as ``block`` in eval mode, or None if there is none.

    Understands any block made of a plain ``.conv`` and an optional plain ``.bn`` that uses running statistics
    (`ConvNormAct`, Ultralytics' ``Conv`` before and after ``fuse()``). A block with an activation, with any other
    child, with hooks or of quantised layers is None: call it as a whole. Differentiable in the block's parameters.
    """
    children = block._modules  # not named_children(): this runs in every forward pass
    conv, bn, act = children.get("conv"), children.get("bn"), children.get("act")
    if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or not children.keys() <= _PARTS:
        return None
    if (act is not None and type(act) is not nn.Identity) or _has_hooks(block, conv, bn, act):
        return None
    if bn is None:
        return Folded(conv, conv.weight, conv.bias)
    if type(bn) is not nn.BatchNorm2d or bn.training or bn.running_mean is None:
        return None
    return _fold(conv, bn)


def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> Folded:
    weight, bias = conv.weight, conv.bias
    statistics = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    halved = weight.dtype in (torch.float16, torch.bfloat16)
    mean, var, gain, offset = (t if t is None else t.float() for t in statistics) if halved else statistics
    assert mean is not None  # checked above; tells the type checker
    assert var is not None
    scale = (var + bn.eps).rsqrt()
    if gain is not None:
        scale = scale * gain
    shift = -mean * scale if offset is None else torch.addcmul(offset, mean, scale, value=-1)
    if bias is not None:
        shift = shift + bias * scale
    weight = weight * scale.view(-1, 1, 1, 1)
    return Folded(conv, *(t.to(conv.weight.dtype) for t in (weight, shift))) if halved else Folded(conv, weight, shift)


def pointwise(folded: Folded) -> tuple[Tensor, Tensor] | None:
    """Weight (out, in) and bias (out) of a 1×1 convolution of stride 1 without padding or groups, else None."""
    conv, weight, bias = folded
    if conv.kernel_size != (1, 1) or conv.groups != 1 or conv.stride != (1, 1) or conv.padding != (0, 0):
        return None
    weight = weight.flatten(1)
    return weight, torch.zeros_like(weight[:, 0]) if bias is None else bias


def project(block: nn.Module, x: Tensor, folded: Folded | None = None) -> Tensor:
    """``block(x)``, in eval mode as one operator where `fold` can make one of it.

    Args:
        block: Any block.
        x: (B, in, H, W).
        folded: ``fold(block)`` where it is known already.
    """
    folded = fold(block) if folded is None else folded
    if folded is None:
        return block(x)
    affine = pointwise(folded)
    if affine is not None and x.is_contiguous(memory_format=torch.channels_last):
        return F.linear(x.permute(0, 2, 3, 1), *affine).permute(0, 3, 1, 2)
    conv, weight, bias = folded
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def call(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``."""
    return block(x)


def _has_hooks(*modules: nn.Module | None) -> bool:
    return any(m is not None and (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks) for m in modules)
