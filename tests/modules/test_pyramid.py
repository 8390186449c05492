"""The pyramid: the battery, the sum of its parts, torchvision's place for it, and what it refuses."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, backbone_utils
from torchvision.models.resnet import resnet18
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

import pst
from battery import AttentionBattery, filled, total
from messages import says
from pst.control import attention_layers
from pst.modules import ConvNormAct
from tensors import Watch, assert_close

CHANNELS = (8, 12, 16)


class TestPyramid(AttentionBattery):
    compiled: ClassVar = ("refine",)
    variants: ClassVar = {
        "coarse": {"topk": 0},
        "gate": {"topk": 8, "bottom_up": True},
        "refine": {"topk": 8, "fusion": "refine", "share": "attention"},
    }
    sizes: ClassVar = ((12, 10), (6, 5), (5, 3))
    odd_sizes: ClassVar = (
        ((13, 9), (7, 5), (3, 4)),  # 2, and more
        ((9, 12), (6, 8), (3, 4)),  # 1.5, then 2
        ((12, 9), (3, 3), (3, 3)),  # 4, then 1
        ((5, 3), (1, 1), (1, 1)),
    )

    def build(self, **settings):
        return pst.PSTPyramid(CHANNELS, 32, head_dim=8, **settings)

    def inputs(self, sizes, batch=2):
        return (tuple(torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)),)

    def output_shapes(self, sizes, batch=2):
        return [(batch, 32, *size) for size in sizes]


def pyramid(**settings: Any) -> Any:
    return filled(pst.PSTPyramid(CHANNELS, 32, head_dim=8, **settings)).eval().double()


def maps(*sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.randn(2, c, *s, dtype=torch.float64) for c, s in zip(CHANNELS, sizes, strict=True)]


def test_each_level_is_the_layer_of_its_map_and_the_next_result():
    model, (c0, c1, c2) = pyramid(topk=2), maps((8, 8), (4, 4), (2, 2))
    p2 = model.top(c2)
    p1 = model.layers[1](c1, p2)
    p0 = model.layers[0](c0, p1)
    for actual, expected in zip(model([c0, c1, c2]), (p0, p1, p2), strict=True):
        assert torch.equal(actual, expected)


def test_bottom_up_mixes_each_result_with_the_finer_one():
    model, levels = pyramid(bottom_up=True), maps((8, 12), (4, 6), (2, 3))
    plain = pyramid()
    plain.load_state_dict(model.state_dict(), strict=False)
    expected = plain(levels)
    for i in range(2):  # at a ratio of 2, resizing bilinearly is the mean of each 2×2 block
        detail = torch.nn.functional.avg_pool2d(expected[i], 2)
        expected[i + 1] = model.bottom_up[i](torch.cat([detail, expected[i + 1]], 1))
    for actual, y in zip(model(levels), expected, strict=True):
        assert_close(actual, y)


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_any_number_of_levels(levels):
    model = pst.PSTPyramid([4] * levels, 64)
    out = model([torch.randn(2, 4, 33 >> i, 32 >> i) for i in range(levels)])
    assert [tuple(y.shape) for y in out] == [(2, 64, 33 >> i, 32 >> i) for i in range(levels)]
    assert len([m for m in model.modules() if isinstance(m, pst.PST)]) == levels - 1


def test_the_container_of_the_maps_is_that_of_the_results():
    model, levels = pyramid(), maps((8, 8), (4, 4), (2, 2))
    expected = model(levels)
    names = ["a", "c", "b"]
    given = (levels, tuple(levels), OrderedDict(zip(names, levels, strict=True)), dict(zip(names, levels, strict=True)))
    for container in given:
        out = model(container)
        assert type(out) is type(container)
        results = list(out.values()) if isinstance(out, dict) else out
        assert not isinstance(out, dict) or list(out) == names
        assert all(torch.equal(y, e) for y, e in zip(results, expected, strict=True))
    assert len(levels) == 3  # extra levels and results never end up in the caller's list


# --------------------------------------------------------------------------------------------------- settings of levels


def test_k_of_each_level():
    model = pst.PSTPyramid(CHANNELS, 64, depth=2, topk=(5, 3))
    assert [layer.topk for layer in attention_layers(model).values()] == [5, 5, 3, 3]
    assert model.get_submodule("layers.0").in_channels == CHANNELS[0]  # the finest comes first


def test_settings_reach_every_layer():
    norm: Any = {
        "depth": 2,
        "mlp_ratio": 3.0,
        "expansion": 0.25,
        "head_dim": 8,
        "fusion": "refine",
        "selection": "gumbel",
    }
    model: Any = pst.PSTPyramid(CHANNELS, 64, topk=5, **norm)
    for attention in attention_layers(model).values():
        assert (attention.dim, attention.num_heads) == (16, 2)
        assert (attention.topk, attention.fusion, attention.selection) == (5, "refine", "gumbel")
    assert model.layers[1].blocks[1].mlp[0].conv.out_channels == 48


def test_shared_attention_has_one_set_of_weights_and_norms_of_its_own():
    own, shared = pst.PSTPyramid(CHANNELS, 64), pst.PSTPyramid(CHANNELS, 64, share="attention", topk=(4, 0))
    first, second = attention_layers(shared).values()
    assert list(shared.state_dict()) == list(own.state_dict())
    for name, p in first.named_parameters():
        assert (dict(second.named_parameters())[name] is p) == (".bn." not in name), name
    weights = sum(p.numel() for name, p in first.named_parameters() if ".bn." not in name)
    assert sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in shared.parameters()) == weights
    assert (first.topk, second.topk) == (4, 0)


def test_shared_attention_learns_from_every_level():
    model, levels = pyramid(share="attention").train(), maps((8, 8), (4, 4), (2, 2))
    own = pyramid().train()
    own.load_state_dict(model.state_dict())
    for each in (model, own):
        total(each(levels)).backward()
    shared: Any = next(iter(attention_layers(model).values()))
    layers: list[Any] = list(attention_layers(own).values())
    assert_close(shared.q.conv.weight.grad, layers[0].q.conv.weight.grad + layers[1].q.conv.weight.grad)


# -------------------------------------------------------------------------------------------------- torchvision's place


def count(model: nn.Module, kind: type) -> int:
    return sum(isinstance(m, kind) for m in model.modules())


def test_takes_the_arguments_of_torchvision_by_position_and_by_name():
    extra = LastLevelMaxPool()
    for model in (
        pst.PSTPyramid([8, 16], 64, extra, nn.Identity),
        pst.PSTPyramid(in_channels_list=[8, 16], out_channels=64, extra_blocks=extra, norm_layer=nn.Identity),
    ):
        assert model.in_channels == (8, 16)
        assert model.out_channels == 64
        assert model.extra_blocks is extra
        assert count(model, nn.BatchNorm2d) == 0


@pytest.mark.parametrize("norm_layer", [None, FrozenBatchNorm2d, lambda c: nn.GroupNorm(8, c)])
def test_norm_layer_follows_every_convolution(norm_layer):
    model = pst.PSTPyramid(CHANNELS, 64, None, norm_layer, topk=2)
    kind = nn.BatchNorm2d if norm_layer is None else type(norm_layer(64))
    assert count(model, kind) == count(model, nn.Conv2d)
    out = model.eval()([torch.randn(1, c, s, s) for c, s in zip(CHANNELS, (8, 4, 2), strict=True)])
    assert all(y.isfinite().all() for y in out)


@pytest.mark.parametrize("bottom_up", [False, True])
def test_extra_blocks_add_the_levels_that_they_add_to_torchvisions(bottom_up):
    levels = OrderedDict((str(i), torch.randn(2, c, 64 >> i, 48 >> i)) for i, c in enumerate(CHANNELS))
    for extra in (LastLevelMaxPool(), LastLevelP6P7(32, 32), LastLevelP6P7(CHANNELS[-1], 32)):
        ours = pst.PSTPyramid(CHANNELS, 32, extra, head_dim=8, bottom_up=bottom_up)(levels)
        theirs = FeaturePyramidNetwork(list(CHANNELS), 32, extra)(levels)
        assert [(name, y.shape) for name, y in ours.items()] == [(name, y.shape) for name, y in theirs.items()]
    assert list(levels) == ["0", "1", "2"]


def test_extra_blocks_are_given_results_maps_and_names():
    seen = {}

    class Extra(nn.Module):
        def forward(self, results, x, names):
            seen.update(results=list(results), x=list(x), names=list(names))
            return [*results, x[-1]], [*names, "more"]

    levels = maps((8, 8), (4, 4), (2, 2))
    model = pyramid(extra_blocks=Extra())
    out = model(tuple(levels))
    assert out[-1] is levels[-1]
    assert all(a is b for a, b in zip(seen["results"], out, strict=False))
    assert seen["names"] == ["0", "1", "2"]


def test_stands_in_for_the_pyramid_inside_torchvisions_detectors(monkeypatch):
    monkeypatch.setattr(backbone_utils, "FeaturePyramidNetwork", pst.PSTPyramid)
    extra = LastLevelP6P7(256, 256)
    backbone = backbone_utils._resnet_fpn_extractor(resnet18(), 5, returned_layers=[2, 3, 4], extra_blocks=extra)
    assert isinstance(backbone.fpn, pst.PSTPyramid)
    model: Any = RetinaNet(backbone, num_classes=3, min_size=96, max_size=96)
    target = {"boxes": torch.tensor([[8.0, 8.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
    losses = model([torch.rand(3, 96, 80)] * 2, [target] * 2)
    torch.stack(list(losses.values())).sum().backward()
    for name, p in backbone.fpn.named_parameters():
        assert p.grad is not None, name
    (detected, _) = model.eval()([torch.rand(3, 96, 80)] * 2)
    assert set(detected) == {"boxes", "scores", "labels"}


# ------------------------------------------------------------------------------------------------------------- refusals

CONTAINER = "maps must be a list, a tuple or a dict of maps, got {}"
BAD_SETTINGS = {
    "no channels": ({"in_channels": None}, ValueError, "give the channels of each map once, as in_channels"),
    "channels twice": ({"in_channels_list": [8]}, ValueError, "give the channels of each map once, as in_channels"),
    "no levels": ({"in_channels": []}, ValueError, "in_channels must hold the channels of each map, at least one"),
    "one number": ({"in_channels": 64}, TypeError, "channels of each map, finest first, got 64: write [64]"),
    "zero channels": ({"in_channels": [8, 0]}, ValueError, "in_channels must hold the channels of each map"),
    "width": ({"out_channels": 80}, ValueError, "out_channels … multiple … head_dim=32"),
    "a class": ({"extra_blocks": LastLevelMaxPool}, TypeError, "extra_blocks must be a Module, such as LastLevel"),
    "misspelt": ({"max_token": 8}, TypeError, "no option max_token: choose among … max_tokens"),
    "share": ({"share": "all"}, ValueError, "share … none … attention … got 'all'"),
    "two norms": (
        {"norm_layer": nn.Identity, "conv": partial(ConvNormAct)},
        ValueError,
        "norm_layer … conv",
    ),
    "k": ({"topk": (1, 2, 3)}, ValueError, "topk … 2 … got [1, 2, 3]"),
    "negative k": ({"topk": (1, -2)}, ValueError, "topk … got -2"),
    "not a k": ({"topk": (1, 2.5)}, TypeError, "topk … integer … 2.5"),
    "reductions": ({"reductions": (4, 8)}, ValueError, "reductions must be 3 numbers, the finest level's first, got ["),
    "coarse first": ({"reductions": (16, 8, 4)}, ValueError, "reductions must be 3 numbers, the finest level's first"),
}


@pytest.mark.parametrize(("settings", "kind", "text"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings_are_refused(settings, kind, text):
    good: dict[str, Any] = {"in_channels": CHANNELS, "out_channels": 64, "reductions": (4, 8, 16)}
    assert pst.PSTPyramid(**good).reductions == (4, 8, 16)
    with pytest.raises(kind, match=says(text)):
        pst.PSTPyramid(**(good | settings))


def zeros(*sizes: int, channels=CHANNELS, batch=1, **kind: Any) -> list[Tensor]:
    return [torch.zeros(batch, c, s, s, **kind) for c, s in zip(channels, sizes, strict=True)]


BAD_MAPS = {
    "tensor": (torch.zeros(1, 8, 8, 8), TypeError, CONTAINER.format("Tensor")),
    "too few": (zeros(8, 4, channels=(8, 12)), ValueError, "3 maps … finest first … got 2"),
    "coarsest first": (zeros(2, 4, 8)[::-1], ValueError, "map 0 … 8 … got … (1, 16,"),
    "sizes": (zeros(2, 4, 8), ValueError, "the fine map must be at least as large as the coarse one, got fine (2, 2)"),
    "integers": (zeros(8, 4, 2, dtype=torch.int64), TypeError, "must be of floating point, got torch.int64"),
    "batch": ([*zeros(8, 4, 2)[:2], torch.zeros(2, 16, 2, 2)], ValueError, "batch … x … 1 … 2"),
    "dtype": (
        [*zeros(8, 4, 2)[:2], torch.zeros(1, 16, 2, 2).double()],
        TypeError,
        "x … torch.float32 … upper … torch.float64",
    ),
}


@pytest.mark.parametrize(("inputs", "kind", "text"), BAD_MAPS.values(), ids=BAD_MAPS)
def test_bad_maps_are_refused_before_any_work(inputs, kind, text):
    model = pst.PSTPyramid(CHANNELS, 64)
    with Watch() as watch, pytest.raises(kind, match=says(text)):
        model(inputs)
    assert watch.written == 0
