"""Rows: each is built at its chosen width, gives what the head wants, learns, and costs what is written."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict

import pytest
import torch
from torch import nn

from lab.frozen.rows import CHANNELS, DETECTED, DETECTED_TRAINED, FIRST, ROWS, TRAINED, chosen, decoder_of
from lab.frozen.widths import NEAR, PADDED, best, cost
from pst.control import attention_layers
from pst.integrations.segmentation import PSTSegmenter

_SMP = importlib.util.find_spec("segmentation_models_pytorch") is not None
built = pytest.mark.parametrize("name", [n for n in ROWS if _SMP or not n.startswith("smp-")])


@built
def test_a_row_gives_one_map_and_every_parameter_learns(name):
    row = ROWS[name]
    decoder = decoder_of(row)
    edge = 256 if name.startswith("smp-") else 64  # which halve the coarsest map three times more
    maps = OrderedDict((str(s), torch.randn(2, CHANNELS[s], edge // s, edge // s)) for s in row.strides)
    out = decoder(maps)
    assert out.shape[:2] == (2, decoder.out_channels)
    out.square().sum().backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["fpn", pytest.param("pst-concat", marks=pytest.mark.slow)])
def test_widths_are_those_of_the_search(name):
    row = ROWS[name]
    first = chosen(ROWS[FIRST[row.group]])
    assert best(row, first) == chosen(row)
    assert abs(chosen(row)["gflops"] / first["gflops"] - 1) <= NEAR


def test_costs_agree_where_a_row_can():
    apart = {
        name
        for name, row in ROWS.items()
        if abs(chosen(row)["gflops"] / chosen(ROWS[FIRST[row.group]])["gflops"] - 1) > NEAR
    }
    unbound = {f"p2-pst-{wiring}" for wiring in ("attention", "concat", "add", "aligned")}
    assert apart - unbound <= {"smp-upernet", "smp-deeplabv3plus"}


@pytest.mark.parametrize("name", ["pan", "bifpn", "pst-aligned-dysample", "p2-pst-add-bound"])
def test_written_costs_are_those_of_the_row(name):
    written = chosen(ROWS[name])
    assert cost(ROWS[name], written["width"], written["mlp_ratio"]) == written


def test_rows_that_are_trained_whole_exist():
    assert set(TRAINED) <= set(ROWS)
    assert set(DETECTED_TRAINED) <= set(DETECTED) <= set(ROWS)
    assert all(side % 32 == 0 for side in PADDED)


def test_the_fpn_without_batchnorm_is_that_of_the_builders():
    ours = decoder_of(ROWS["p2-plain-fpn"]).neck
    theirs = PSTSegmenter("resnet18", neck="fpn", decoder_pyramid_channels=64).decoder.neck
    assert type(theirs) in type(ours).__mro__
    kinds = [sorted({type(m).__name__ for m in neck.modules()} - {type(neck).__name__}) for neck in (ours, theirs)]
    assert kinds[0] == kinds[1]
    assert any(isinstance(m, nn.BatchNorm2d) for m in decoder_of(ROWS["p2-fpn"]).neck.modules())


def test_a_row_of_pst_has_the_options_of_its_name():
    layers = attention_layers(decoder_of(ROWS["pst-aligned-dysample-deep"])).values()
    assert len(layers) == 4
    assert all(layer.settings.aligned and layer.upsampling is not None for layer in layers)
    assert all(m.settings.max_tokens == 100 for m in attention_layers(decoder_of(ROWS["pst-add-bound"])).values())
