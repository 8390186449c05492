"""Convolution, BatchNorm and SiLU in training, of which nothing but the input is kept for the backward pass.

Autograd keeps the result of every step: of the convolution for BatchNorm, of BatchNorm for SiLU. They make up most of
the memory that a training step of a PST layer takes. Here the steps of the forward pass write over one another, and the
backward pass computes the convolution again; its gradient takes the place of its result.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def conv_norm_act(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, *, silu: bool) -> Tensor:
    """SiLU(norm(conv(x))), or norm(conv(x)); as ``norm`` itself does, updates its running statistics.

    Args:
        x: (B, in, H, W), on the CPU.
        conv: Without bias, padded with zeros.
        norm: In training mode, with a momentum, running statistics, and weight and bias of its own.
        silu: Whether SiLU follows.

    Returns:
        (B, out, H, W). Differentiable once.
    """
    assert norm.num_batches_tracked is not None  # checked by the caller; tells the type checker
    norm.num_batches_tracked.add_(1)
    running = norm.running_mean, norm.running_var, norm.momentum
    settings = conv.stride, conv.padding, conv.dilation, conv.groups
    return _ConvNormAct.apply(x, conv.weight, norm.weight, norm.bias, running, norm.eps, settings, silu)


class _ConvNormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gain: Tensor, offset: Tensor, running: tuple[Any, ...], eps: float,
        settings: tuple[Any, ...], silu: bool,
    ) -> Tensor:  # fmt: skip
        out = torch.conv2d(x, weight, None, *settings)
        mean, var = torch.batch_norm_update_stats(out, *running)
        invstd = (var + eps).rsqrt_()
        scale = gain * invstd
        shift = torch.addcmul(offset, mean, scale, value=-1)
        torch.addcmul(_wide(shift), out, _wide(scale), out=out)
        ctx.save_for_backward(x, weight, gain, mean, invstd, shift)
        ctx.settings, ctx.silu = settings, silu
        return F.silu(out, inplace=True) if silu else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, gain, mean, invstd, shift = ctx.saved_tensors
        scale = gain * invstd
        z = torch.conv2d(x, weight, None, *ctx.settings)
        if ctx.silu:
            normalised = torch.addcmul(_wide(shift), z, _wide(scale))
            upstream = torch.ops.aten.silu_backward.grad_input(upstream, normalised, grad_input=normalised)
            del normalised
        _, gain_gradient, offset_gradient = torch.ops.aten.native_batch_norm_backward(
            upstream, z, gain, None, None, mean, invstd, True, 0.0, [False, True, True]
        )
        # BatchNorm's gradient in z is scale·upstream + slope·z + level; it takes the place of z
        n = z.numel() // z.shape[1]
        slope = gain_gradient * scale * invstd / -n
        level = offset_gradient * scale / -n - slope * mean
        gradient = torch.addcmul(_wide(level), z, _wide(slope), out=z).addcmul_(upstream, _wide(scale))
        del upstream
        stride, padding, dilation, groups = ctx.settings
        x_gradient, weight_gradient, _ = torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            stride,
            padding,
            dilation,
            False,
            (0, 0),
            groups,
            (*ctx.needs_input_grad[:2], False),
        )
        return x_gradient, weight_gradient, gain_gradient, offset_gradient, None, None, None, None


def _wide(channels: Tensor) -> Tensor:
    """(C) -> (C, 1, 1)."""
    return channels[:, None, None]
