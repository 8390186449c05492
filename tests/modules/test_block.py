"""One transformer block: the battery, and the sum it stands for."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

import pst
from battery import AttentionBattery, filled
from messages import says
from tensors import assert_close


class TestPSTBlock(AttentionBattery):
    compiled: ClassVar = ("gate",)

    def build(self, **settings):
        return pst.PSTBlock(16, 2, **settings)

    def inputs(self, sizes, batch=2):
        return torch.randn(batch, 16, *sizes[0]), torch.randn(batch, 16, *sizes[1])

    def output_shapes(self, sizes, batch=2):
        return [(batch, 16, *sizes[0])]

    def test_is_two_residual_steps(self, variant):
        block, (x, upper) = self.module(variant, torch.float64), self.maps(dtype=torch.float64)
        z = x + block.attn(x, upper)
        assert_close(block(x, upper), z + block.mlp(z))


@pytest.mark.parametrize(("ratio", "hidden"), [(2.0, 32), (1.2, 19), (0.5, 8)])
def test_hidden_width_is_a_multiple_of_the_width_rounded_down(ratio, hidden):
    mlp: Any = pst.PSTBlock(16, 2, mlp_ratio=ratio).mlp
    assert [tuple(layer.conv.weight.shape) for layer in mlp] == [(hidden, 16, 1, 1), (16, hidden, 1, 1)]
    assert [type(layer.act) for layer in mlp] == [torch.nn.SiLU, torch.nn.Identity]


def test_convolutions_start_from_a_truncated_normal():
    block = pst.PSTBlock(64, 2)
    weights = [m.weight for m in block.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(weights) == 6
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_biases_start_from_zero():
    class BiasedConv(pst.ConvNormAct):
        def __init__(self, in_channels, out_channels, kernel_size=1, *, groups=1, act=True):
            super().__init__(in_channels, out_channels, kernel_size, groups=groups, act=act)
            self.conv = torch.nn.Conv2d(in_channels, out_channels, kernel_size, padding="same", groups=groups)

    block = pst.PSTBlock(16, 2, conv=BiasedConv)
    biases = [m.bias for m in block.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(biases) == 6
    assert all(bias is not None and not bias.any() for bias in biases)


@pytest.mark.parametrize("ratio", [0.0, 0.05, -1.0])
def test_an_empty_mlp_is_refused(ratio):
    with pytest.raises(ValueError, match=says(f"mlp_ratio … got … 16 … {ratio}")):
        pst.PSTBlock(16, 2, mlp_ratio=ratio)


def test_the_convolution_is_injectable():
    names = []

    def conv(*args, **kwargs):
        names.append(args)
        return pst.ConvNormAct(*args, **kwargs)

    assert len(filled(pst.PSTBlock(16, 2, conv=conv)).state_dict()) == len(pst.PSTBlock(16, 2).state_dict())
    assert names == [(16, 16), (16, 32), (16, 16, 7), (16, 16), (16, 32), (32, 16)]
