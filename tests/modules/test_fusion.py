"""The plug-in layer: the battery, the sum of its parts, and what it refuses."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

import pst
from battery import AttentionBattery
from messages import says
from tensors import Watch, assert_close


class TestPST(AttentionBattery):
    compiled: ClassVar = ("gate", "refine")

    def build(self, **settings):
        return pst.PST(8, 12, 32, head_dim=8, **settings)

    def inputs(self, sizes, batch=2):
        return torch.randn(batch, 8, *sizes[0]), torch.randn(batch, 12, *sizes[1])

    def output_shapes(self, sizes, batch=2):
        return [(batch, 32, *sizes[0])]

    def test_every_block_attends_to_the_same_upper_map(self, variant):
        module, (x, upper) = self.module({"depth": 2, **variant}, torch.float64), self.maps(dtype=torch.float64)
        u, y0 = module.reduce_upper(upper), module.reduce(x)
        y1 = module.blocks[0](y0, u)
        y2 = module.blocks[1](y1, u)
        assert_close(module(x, upper), module.project(torch.cat([y0, y1, y2], 1)))

    def test_the_formats_of_the_two_maps_may_differ(self, variant):
        module, (x, upper) = self.module(variant, torch.float64), self.maps(dtype=torch.float64)
        expected = module(x, upper)
        y = module(x, upper.to(memory_format=torch.channels_last))
        assert y.is_contiguous()
        assert_close(y, expected, 1e-10)
        y = module(x.to(memory_format=torch.channels_last), upper)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert_close(y, expected, 1e-10)


def test_settings_reach_every_block():
    layer = pst.PST(8, 12, 64, depth=3, expansion=0.5, head_dim=16, topk=5, fusion="refine", selection="gumbel")
    assert len(layer.blocks) == 3
    for attention in pst.control.attention_layers(layer).values():
        assert (attention.dim, attention.num_heads) == (32, 2)
        assert (attention.topk, attention.fusion, attention.selection) == (5, "refine", "gumbel")


def test_the_width_is_the_share_of_the_output_rounded_down():
    assert pst.PST(8, 12, 100, expansion=0.64).state_dict()["reduce.conv.weight"].shape == (64, 8, 1, 1)


MULTIPLE = "out_channels … expansion … multiple … head_dim={} … got … {} … {} … {}"
BAD_SETTINGS = {
    "width": ({"out_channels": 80}, ValueError, MULTIPLE.format(32, 80, 0.5, 40)),
    "too narrow": ({"out_channels": 32}, ValueError, MULTIPLE.format(32, 32, 0.5, 16)),
    "no width": ({"expansion": 0.0}, ValueError, MULTIPLE.format(32, 64, 0.0, 0)),
    "no head width": ({"head_dim": 0}, ValueError, MULTIPLE.format(0, 64, 0.5, 32)),
    "negative head width": ({"head_dim": -8}, ValueError, MULTIPLE.format(-8, 64, 0.5, 32)),
    "no channels": ({"in_channels": 0}, ValueError, "in_channels … integer ≥ 1 … got 0"),
    "negative channels": ({"upper_channels": -3}, ValueError, "upper_channels … integer ≥ 1 … got -3"),
    "channels as text": ({"out_channels": "64"}, TypeError, "out_channels … integer … got '64' (str)"),
    "channels as bool": ({"in_channels": True}, ValueError, "in_channels … integer ≥ 1 … got True"),
    "depth": ({"depth": 0}, ValueError, "depth … got 0"),
    "mlp": ({"mlp_ratio": 0.0}, ValueError, "mlp_ratio … got … 32 … 0.0"),
    "negative k": ({"topk": -1}, ValueError, "topk … got -1"),
    "bool k": (
        {"topk": False},
        TypeError,
        "topk … integer … False",
    ),
    "fusion": ({"fusion": None}, ValueError, "fusion … gate … refine … got None"),
    "selection": (
        {"selection": ""},
        ValueError,
        "selection … mean … got ''",
    ),
    "misspelt": ({"top_k": 8}, TypeError, "no option top_k: choose among … depth … topk"),
}


@pytest.mark.parametrize(("settings", "kind", "text"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings_are_refused(settings, kind, text):
    good: dict[str, Any] = {"in_channels": 8, "upper_channels": 12, "out_channels": 64}
    pst.PST(**good)
    with pytest.raises(kind, match=says(text)):
        pst.PST(**(good | settings))


def zeros(*shape, **kind):
    return torch.zeros(shape, **kind)


SWAPPED = "fine {} … coarse {} … swapped"
BAD_MAPS = {
    "swapped": (
        (zeros(1, 12, 4, 4), zeros(1, 8, 8, 8)),
        ValueError,
        "x … 8 … got … (1, 12, 4, 4): the finer map comes first",
    ),
    "upper": (
        (zeros(1, 8, 8, 8), zeros(1, 8, 4, 4)),
        ValueError,
        "upper … 12 … got … (1, 8, 4, 4)",
    ),
    "batch": ((zeros(1, 8, 8, 8), zeros(2, 12, 4, 4)), ValueError, "batch … x … 1 … 2"),
    "too small": (
        (zeros(1, 8, 8, 3), zeros(1, 12, 4, 4)),
        ValueError,
        SWAPPED.format((8, 3), (4, 4)),
    ),
    "dtype": (
        (zeros(1, 8, 8, 8), zeros(1, 12, 4, 4, dtype=torch.bfloat16)),
        TypeError,
        "x … torch.float32 … upper … torch.bfloat16",
    ),
    "integers": (
        (zeros(1, 8, 8, 8, dtype=torch.uint8), zeros(1, 12, 4, 4)),
        TypeError,
        "x must be of floating point, got torch.uint8 … float",
    ),
    "device": (
        (zeros(1, 8, 8, 8, device="meta"), zeros(1, 12, 4, 4)),
        ValueError,
        "x … meta … upper … cpu",
    ),
}


@pytest.mark.parametrize(("inputs", "kind", "text"), BAD_MAPS.values(), ids=BAD_MAPS)
def test_bad_maps_are_refused_before_any_work(inputs, kind, text):
    layer = pst.PST(8, 12, 64)
    with Watch() as watch, pytest.raises(kind, match=says(text)):
        layer(*inputs)
    assert watch.written == 0


@pytest.mark.parametrize("topk", [0, 2])
@pytest.mark.parametrize("option", [{}, {"upsample": "dysample"}, {"aligned": True}], ids=str)
def test_another_fine_map_trains_every_parameter(option, topk):
    layer = pst.PST(8, 12, 16, head_dim=8, topk=topk, wiring="add", fusion="refine", **option).train()
    layer(torch.randn(2, 8, 8, 8), torch.randn(2, 12, 4, 4), torch.randn(2, 8, 8, 8)).square().mean().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None] == []
