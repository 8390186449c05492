"""Pyramid sparse attention with its projections: the battery, how it projects, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import pst
from battery import AttentionBattery, Settings, digest, filled
from messages import says
from pst.functional.selection import Random
from pst.modules import ConvNormAct
from tensors import Watch, assert_close


class TestPyramidSparseAttention(AttentionBattery):
    def build(self, **settings):
        return pst.PyramidSparseAttention(16, 2, **settings)

    def inputs(self, sizes, batch=2):
        return torch.randn(batch, 16, *sizes[0]), torch.randn(batch, 16, *sizes[1])

    def output_shapes(self, sizes, batch=2):
        return [(batch, 16, *sizes[0])]


class TestSelectionRules(TestPyramidSparseAttention):
    """The same for the rules beyond the paper, each with one of the fusions."""

    compiled: ClassVar = ("nucleus", "random")
    variants: ClassVar[Mapping[str, Settings]] = {
        "mass": {"topk": 8, "selection": "mass"},
        "window": {"topk": 8, "selection": "window", "fusion": "refine"},
        "nucleus": {"topk": 8, "selection": "nucleus", "fusion": "refine"},
        "random": {"topk": 8, "selection": "random"},
    }

    def module(self, variant, dtype=torch.float32):
        if variant.get("selection") == "nucleus" and variant["topk"] > 8:
            variant = {**variant, "selection": "mean"}  # rounding may move the end of a nucleus
        return super().module(variant, dtype)


def layer(**settings) -> Any:
    return filled(pst.PyramidSparseAttention(16, 2, **settings)).eval()


def maps(dtype=torch.float32, fine=(12, 10), coarse=(6, 5)):
    return torch.randn(2, 16, *fine, dtype=dtype), torch.randn(2, 16, *coarse, dtype=dtype)


class GroupNormConv(nn.Module):
    """A convolution that is not an affine map of each pixel: its norm looks at the whole map."""

    def __init__(self, in_channels, out_channels, kernel_size=1, *, groups=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)
        self.norm = nn.GroupNorm(2, out_channels)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


# ------------------------------------------------------------------------------------------------- fine projection


def test_gradients_of_gathered_tokens_take_no_map_for_each_head():
    module = filled(pst.PyramidSparseAttention(32, 8, topk=2)).eval()
    x, upper = torch.randn(1, 32, 40, 40, requires_grad=True), torch.randn(1, 32, 20, 20)
    with Watch() as watch:
        module(x, upper).sum().backward()
    assert watch.largest <= 2 * x.numel()  # both branches side by side, for the gate


@pytest.mark.parametrize("fusion", ["gate", "refine"])
def test_a_projection_that_is_not_pointwise_runs_on_the_whole_map(fusion):
    module = layer(topk=4, fusion=fusion, conv=GroupNormConv).double()
    x, upper = maps(torch.float64)
    fused = module(x, upper)
    key, value = module.kv(x).unflatten(1, (2, 2, 8)).permute(2, 0, 1, 4, 5, 3)
    coarse_key, coarse_value = module.kv(upper).unflatten(1, (2, 2, 8)).permute(2, 0, 1, 4, 5, 3)
    query = module.q(x).unflatten(1, (2, 8)).permute(0, 1, 3, 4, 2)
    gate = None if module.gate is None else (module.gate.weight, module.gate.bias)
    o = pst.functional.pyramid_sparse_attention(
        query, coarse_key, coarse_value, (key, value), topk=4, fusion=fusion, gate=gate, impl="reference"
    )
    position = module.pe(coarse_value.permute(0, 1, 4, 2, 3).flatten(1, 2))
    position = nn.functional.interpolate(position, size=(12, 10), mode="bilinear", align_corners=False)
    assert_close(module.proj(o.permute(0, 1, 4, 2, 3).flatten(1, 2) + position), fused, 1e-11)


def test_training_statistics_see_both_whole_maps():
    module, (x, upper) = layer(topk=4).train(), maps()
    before = module.kv.bn.num_batches_tracked.item()
    module(x, upper)
    assert module.kv.bn.num_batches_tracked.item() == before + 2


def test_channels_last_runs_without_copying_a_fine_map():
    module = layer(topk=4)
    x, upper = maps(fine=(40, 40), coarse=(20, 20))

    def written(memory_format):
        inputs = [t.contiguous(memory_format=memory_format) for t in (x, upper)]
        with torch.no_grad(), Watch() as watch:
            module(*inputs)
        return watch.written

    for fusion, k in itertools.product(("gate", "refine"), (0, 4)):
        module.fusion, module.topk = fusion, k
        # maps laid out by channel cost two copies at least: of the query and of the result
        assert written(torch.channels_last) <= written(torch.contiguous_format) - 2 * x.numel()


@pytest.mark.parametrize("selection", ["mean", "mass", "nearest", "nucleus", "query", "random", "window", "gumbel"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_an_empty_batch_gives_an_empty_batch(selection, training):
    for k, fusion in itertools.product((0, 3), ("gate", "refine")):
        settings: Any = {"topk": k, "fusion": fusion, "selection": selection}
        alone, pyramid = (
            pst.PyramidSparseAttention(16, 2, **settings),
            pst.PSTPyramid([8, 8], 16, head_dim=8, **settings),
        )
        sizes = (13, 9), (7, 4)
        out = alone.train(training)(*(torch.randn(0, 16, *size) for size in sizes))
        assert out.shape == (0, 16, 13, 9)
        maps = pyramid.train(training)([torch.randn(0, 8, *size) for size in sizes])
        assert [tuple(t.shape) for t in maps] == [(0, 16, 13, 9), (0, 16, 7, 4)]
        torch.stack([t.sum() for t in (out, *maps)]).sum().backward()


# ------------------------------------------------------------------------------------------------------- attributes


def test_a_layer_without_gate_has_no_parameters_for_one():
    assert layer(fusion="refine").gate is None
    gated, plain = (set(layer(fusion=fusion).state_dict()) for fusion in ("gate", "refine"))
    assert gated - plain == {"gate.weight", "gate.bias"}


def test_settings_are_shown():
    assert "dim=16, num_heads=2, topk=3, fusion='refine', selection='mean'" in repr(layer(topk=3, fusion="refine"))


def test_the_generator_is_neither_copied_nor_pickled():
    module, inputs = layer(topk=3), maps()
    module.generator = torch.Generator()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.generator is None
        assert digest(other(*inputs)) == digest(module(*inputs))
    assert module.generator is not None


def test_the_observer_is_told_what_was_selected_and_the_sizes():
    module, seen = layer(topk=3), []
    module.observer = lambda *args: seen.append(args)
    module(*maps(fine=(13, 10), coarse=(6, 5)))
    [(index, coarse, fine)] = seen
    assert index.shape == (2, 2, 3)
    assert index.dtype == torch.int64
    assert (coarse, fine) == ((6, 5), (13, 10))


def test_a_compiled_layer_is_pickled_as_a_plain_one():
    torch.compiler.reset()
    module, inputs = layer(topk=3), maps()
    expected = digest(module(*inputs))
    module.compile(backend="eager", fullgraph=True)
    module(*inputs)
    assert digest(pickle.loads(pickle.dumps(module))(*inputs)) == expected


@pytest.mark.slow
def test_inductor_code_equals_eager():
    torch.compiler.reset()
    module, inputs = layer(topk=4), maps()
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(*inputs), module(*inputs), 1e-5)


# ----------------------------------------------------------------------------------------------------------- errors


def zeros(*shape, **kind):
    return torch.zeros(shape, **kind)


SWAPPED = "fine {} … coarse {} … swapped"
BAD_MAPS = {
    "x without batch": (
        (zeros(16, 8, 8), zeros(1, 16, 4, 4)),
        ValueError,
        "x … 16 … got … (16, 8, 8)",
    ),
    "channels of x": (
        (zeros(1, 15, 8, 8), zeros(1, 16, 4, 4)),
        ValueError,
        "x … 16 … got … (1, 15, 8, 8)",
    ),
    "channels of upper": (
        (zeros(1, 16, 8, 8), zeros(1, 17, 4, 4)),
        ValueError,
        "upper … 16 … got … (1, 17, 4, 4)",
    ),
    "batch": (
        (zeros(2, 16, 8, 8), zeros(3, 16, 4, 4)),
        ValueError,
        "batch … x … 2 … 3",
    ),
    "device": (
        (zeros(1, 16, 8, 8), zeros(1, 16, 4, 4, device="meta")),
        ValueError,
        "x … cpu … upper … meta",
    ),
    "dtype": (
        (zeros(1, 16, 8, 8), zeros(1, 16, 4, 4, dtype=torch.float64)),
        TypeError,
        "x … torch.float32 … upper … torch.float64",
    ),
    "empty": (
        (zeros(1, 16, 8, 8), zeros(1, 16, 4, 0)),
        ValueError,
        "empty … (8, 8) … (4, 0)",
    ),
    "swapped": (
        (zeros(1, 16, 4, 4), zeros(1, 16, 8, 8)),
        ValueError,
        SWAPPED.format((4, 4), (8, 8)),
    ),
}


@pytest.mark.parametrize(("inputs", "kind", "text"), BAD_MAPS.values(), ids=BAD_MAPS)
def test_bad_maps_are_refused_before_any_work(inputs, kind, text):
    module = layer(topk=2)
    with Watch() as watch, pytest.raises(kind, match=says(text)):
        module(*inputs)
    assert watch.written == 0


BAD_SETTINGS = {
    "misspelt": ({"k": 8}, TypeError, "no option k: choose among … topk"),
    "heads": ({"num_heads": 3}, ValueError, "multiple … dim=16 … num_heads=3"),
    "no heads": ({"num_heads": 0}, ValueError, "multiple … dim=16 … num_heads=0"),
    "negative k": ({"topk": -8}, ValueError, "topk … got -8"),
    "float k": ({"topk": 8.0}, TypeError, "topk … integer … 8.0"),
    "fusion": ({"fusion": "mean"}, ValueError, "fusion … gate … refine … got 'mean'"),
    "selection": (
        {"selection": "top"},
        ValueError,
        "selection … mean … got 'top'",
    ),
}


@pytest.mark.parametrize(("settings", "kind", "text"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings_are_refused(settings, kind, text):
    with pytest.raises(kind, match=says(text)):
        pst.PyramidSparseAttention(**({"dim": 16, "num_heads": 2} | settings))


def test_attributes_are_checked_when_set():
    module = layer(topk=3, fusion="refine")
    with pytest.raises(ValueError, match=says("topk … got -1")):
        module.topk = -1
    with pytest.raises(TypeError, match=says("topk … integer … 1.5")):
        module.topk = 1.5
    with pytest.raises(ValueError, match=says("fusion … gate … refine")):
        module.fusion = "mean"
    with pytest.raises(ValueError, match=says('fusion="refine" … no gate … fusion="gate"')):
        module.fusion = "gate"
    assert (module.topk, module.fusion) == (3, "refine")


def test_the_convolution_factory_makes_every_projection():
    made = []

    def conv(in_channels, out_channels, kernel_size=1, *, groups=1, act=True):
        made.append((in_channels, out_channels, kernel_size, groups, act))
        return ConvNormAct(in_channels, out_channels, kernel_size, groups=groups, act=act)

    pst.PyramidSparseAttention(16, 2, conv=conv)
    assert made == [(16, 16, 1, 1, False), (16, 32, 1, 1, False), (16, 16, 7, 16, False), (16, 16, 1, 1, False)]


def test_integers_of_numpy_are_stored_as_integers():
    given: Any = {"topk": np.int64(3), "max_tokens": np.int32(4)}
    rule: Any = {"seed": np.int64(1), "grid": np.int8(2)}
    settings = pst.PyramidSparseAttention(16, 2, **given, selection=Random(**rule)).settings
    wanted = pst.PyramidSparseAttention(16, 2, topk=3, max_tokens=4, selection=Random(seed=1, grid=2)).settings
    assert settings == wanted
    assert json.dumps(settings.plain())  # as files hold them
