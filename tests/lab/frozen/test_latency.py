"""Folded networks compute the same, and no BatchNorm is left behind a convolution."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

from battery import filled
from lab.frozen import latency
from lab.frozen.rows import CHANNELS, ROWS, decoder_of
from tensors import assert_close


@pytest.mark.parametrize("name", ["pst-add-dysample", "fpn", "bifpn"])
def test_folding_changes_nothing(name):
    row = ROWS[name]
    decoder = filled(decoder_of(row)).eval().double()
    maps = OrderedDict((str(s), torch.randn(1, CHANNELS[s], 64 // s, 64 // s).double()) for s in row.strides)
    expected = decoder(maps)
    assert_close(latency.folded(decoder)(maps), expected, 1e-10)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in decoder.modules())


def test_every_row_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "ROWS", {name: ROWS[name] for name in ("fpn", "pst-add", "p2-fpn")})
    monkeypatch.setattr(latency, "DETECTED", ("p2-fpn",))
    monkeypatch.setattr(latency, "BATCHES", (1,))
    found = json.loads(latency.measure(tmp_path, "cpu", 0.5).read_text())
    assert set(found["milliseconds"]["1"]) == {"fpn", "pst-add", "p2-fpn"}
    assert set(found["boxes"]["1"]) == {"p2-fpn"}
    assert all(ms > 0 for kind in ("milliseconds", "boxes") for ms in found[kind]["1"].values())
    assert found["hardware"]["cpu"]
