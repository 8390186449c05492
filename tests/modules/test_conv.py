"""The small block that the others are built of."""

from __future__ import annotations

import torch
from torch import nn

import pst
from battery import ModuleBattery
from tensors import assert_close


class TestConvNormAct(ModuleBattery):
    variants = {  # noqa: RUF012 ClassVar in the base
        "pointwise": {},
        "linear": {"act": False},
        "depthwise": {"kernel_size": 7, "groups": 8},
    }

    def build(self, **settings):
        return pst.ConvNormAct(8, 16, **settings)

    def inputs(self, sizes, batch=2):
        return (torch.randn(batch, 8, *sizes[0]),)

    def output_shapes(self, sizes, batch=2):
        return [(batch, 16, *sizes[0])]

    def test_is_convolution_normalisation_and_silu(self, variant):
        module, (x,) = self.module(variant, torch.float64), self.maps(dtype=torch.float64)
        kernel, bn = module.conv.weight, module.bn
        y = nn.functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=variant.get("groups", 1))
        y = (y - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + 1e-5).sqrt()
        y = y * bn.weight[:, None, None] + bn.bias[:, None, None]
        assert_close(module(x), y * y.sigmoid() if variant.get("act", True) else y)
