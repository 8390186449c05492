"""Looks inside a small block, and computes it with fewer operators and less memory than calling it takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst.functional._dispatch import is_eager
from pst.functional.attention import autocasts
from pst.modules.recompute import conv_norm_act

LARGE = 2**14  # numbers in a map from which folding BatchNorm costs less than its own pass
RECOMPUTED = 2**17  # from which, in training, computing a convolution twice costs less than keeping it
_PARTS = {"conv", "bn", "act"}


class Parts(NamedTuple):
    """What a block is made of, one after the other."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    act: nn.Module | None


class Folded(NamedTuple):
    """A convolution that does the work of a block's convolution and BatchNorm.

    Attributes:
        conv: The block's own, for its stride, padding and groups.
        weight: (out, in / groups, kernel, kernel), BatchNorm folded in.
        bias: (out) or None.
    """

    conv: nn.Conv2d
    weight: Tensor
    bias: Tensor | None


def parts(block: nn.Module) -> Parts | None:
    """What ``block`` is made of: a plain ``.conv``, then ``.bn``, then ``.act``, the last two optional; else None.

    Such are `ConvNormAct` and Ultralytics' ``Conv`` before and after ``fuse()``. A block with any other child, with
    hooks or of quantised layers is None: call it as a whole.
    """
    children = block._modules  # not named_children(): this runs in every forward pass
    conv, norm, act = children.get("conv"), children.get("bn"), children.get("act")
    if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or not children.keys() <= _PARTS:
        return None
    if norm is not None and type(norm) is not nn.BatchNorm2d:
        return None
    if _have_hooks(block, conv, norm):
        return None
    if "weight" not in conv._parameters or (norm is not None and "weight" not in norm._parameters):
        return None  # something else holds the parameters, as sharding does
    return Parts(conv, norm, None if type(act) is nn.Identity and not _have_hooks(act) else act)


def fold(block: nn.Module) -> Folded | None:
    """One convolution that is the same as ``block`` in eval mode, or None if there is none.

    Differentiable in the block's parameters. None for a block with an activation.
    """
    known = parts(block)
    if known is None or known.act is not None:
        return None
    conv, norm, _ = known
    if norm is None:
        return Folded(conv, conv.weight, conv.bias)
    mean, var = norm._buffers["running_mean"], norm._buffers["running_var"]
    return None if norm.training or mean is None or var is None else _fold(conv, norm, mean, var)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d, mean: Tensor, var: Tensor) -> Folded:
    own, parameters = conv._parameters, norm._parameters  # a tenth of the time that conv.weight takes
    weight, bias, gain, offset = own["weight"], own["bias"], parameters["weight"], parameters["bias"]
    assert weight is not None  # tells the type checker
    if halved := _is_half(weight):
        weight, mean, var = weight.float(), mean.float(), var.float()
        gain, offset, bias = (t if t is None else t.float() for t in (gain, offset, bias))
    scale = (var + norm.eps).rsqrt()
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
    if not _is_pointwise(conv):
        return None
    weight = weight.flatten(1)
    return weight, torch.zeros_like(weight[:, 0]) if bias is None else bias


def project(block: nn.Module, x: Tensor, folded: Folded | None = None) -> Tensor:
    """``block(x)``; on the CPU, where `parts` knows the block, by as few operators as can be.

    Args:
        block: Any block.
        x: (B, in, H, W).
        folded: `fold` of the block where it is known already.
    """
    if x.device.type != "cpu" or not is_eager():  # elsewhere compilers and kernels see to this
        return block(x)
    known = parts(block)
    if known is None:
        return _project_each(block, x) if type(block) is nn.Sequential and not _have_hooks(block) else block(x)
    conv, norm, act = known
    if norm is None or folded is not None:
        weight, bias = (conv.weight, conv.bias) if folded is None else folded[1:]
        y = _convolve(conv, x, weight, bias)
    elif not norm.training:
        y = _project_in_eval(conv, norm, x)
    elif _is_worth_recomputing(conv, norm, x):
        silu = type(act) is nn.SiLU and not _have_hooks(act)
        y = conv_norm_act(x, conv, norm, silu=silu)
        act = None if silu else act
    else:
        y = norm(_convolve(conv, x, conv.weight, conv.bias))
    return y if act is None else act(y)


def _project_each(blocks: nn.Sequential, x: Tensor) -> Tensor:
    for block in blocks:
        x = project(block, x)
    return x


def _project_in_eval(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """With BatchNorm folded into the convolution where that costs less than BatchNorm's pass over the result."""
    weight, bias = conv._parameters["weight"], conv._parameters["bias"]
    parameters, running = norm._parameters, norm._buffers
    mean, var = running["running_mean"], running["running_var"]
    assert weight is not None  # tells the type checker
    if mean is None or var is None:  # normalises by the batch's own statistics
        return norm(_convolve(conv, x, weight, bias))
    if x.numel() >= LARGE:
        _, weight, bias = _fold(conv, norm, mean, var)
        return _convolve(conv, x, weight, bias)
    y = _convolve(conv, x, weight, bias)
    return torch.batch_norm(y, parameters["weight"], parameters["bias"], mean, var, False, 0.0, norm.eps, False)


def _is_worth_recomputing(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether, in training, `conv_norm_act` knows such a block, and saves memory without costing time."""
    if x.numel() < RECOMPUTED or not torch.is_grad_enabled() or not _is_channels_last(x):  # NCHW: 5 to 8 % slower
        return False
    if not norm.track_running_stats or norm.momentum is None or not norm.affine or conv.bias is not None:
        return False
    return x.dtype == conv.weight.dtype and not _is_half(x) and not autocasts(x)


def _convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _is_pointwise(conv) and _is_channels_last(x):
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.groups == 1 and conv.stride == (1, 1) and conv.padding == (0, 0)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _is_half(x: Tensor) -> bool:
    return x.dtype in (torch.float16, torch.bfloat16)


def _have_hooks(*modules: nn.Module | None) -> bool:
    for m in modules:
        if m is not None and (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks):
            return True
    return False
