"""Which width gives each row the cost of the first row of its group."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import nn

from lab.frozen.pack import EDGE
from lab.frozen.rows import CHANNELS, FIRST, ROWS, WIDTHS, Row, box_neck, build_decoder
from pst.io.files import write_text
from pst.profile.flops import count_flops

PADDED = (256, 320)  # what the network sees: sides that every decoder can halve five times
NEAR = 0.05
_NARROWEST, _WIDEST = 16, 640
_RATIOS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
_START = {"P3": (128, 2.0), "P2": (128, 2.0)}


def write_widths() -> None:
    """Search for every row, and write `WIDTHS`."""
    found: dict[str, dict[str, Any]] = {}
    for group, first in FIRST.items():
        wanted = cost(ROWS[first], *_START[group])
        for row in ROWS.values():
            if row.group == group:
                found[row.name] = wanted if row.name == first else best(row, wanted)
    write_text(WIDTHS, "{\n" + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()) + "\n}\n")


def cost(row: Row, width: int, mlp_ratio: float) -> dict[str, Any]:
    """Parameters and GFLOPs of neck and head for one picture of `PADDED`, with the widths that they are of."""
    with torch.device("meta"):
        decoder: nn.Module = build_decoder(row, width, mlp_ratio)
        maps = OrderedDict((str(s), torch.empty(1, CHANNELS[s], PADDED[0] // s, PADDED[1] // s)) for s in row.strides)
    parameters = sum(p.numel() for p in decoder.parameters())
    return {
        "width": width,
        "mlp_ratio": mlp_ratio,
        "parameters": parameters,
        "gflops": round(count_flops(decoder, maps) / 1e9, 5),
    }


def neck_gflops(row: Row) -> float:
    """GFLOPs of a neck that finds boxes, without the head, for one picture of `EDGE`."""
    with torch.device("meta"):
        maps = OrderedDict((str(s), torch.empty(1, CHANNELS[s], EDGE // s, EDGE // s)) for s in row.strides)
        return count_flops(box_neck(row), maps) / 1e9


def best(row: Row, wanted: dict[str, Any]) -> dict[str, Any]:
    """Within 5 % of the wanted GFLOPs, if any is, the nearest in parameters; else the nearest in GFLOPs.

    A row whose narrowest form costs more, as attention to all of stride 8 does, keeps the first row's widths.
    """
    if cost(row, _NARROWEST, _RATIOS[0])["gflops"] > wanted["gflops"]:
        return cost(row, wanted["width"], wanted["mlp_ratio"])
    ratios = _RATIOS if row.kind == "pst" else (2.0,)
    found = [cost(row, _width(row, ratio, wanted["gflops"]), ratio) for ratio in ratios]
    return min(found, key=lambda c: _distance(c, wanted))


def _width(row: Row, ratio: float, gflops: float) -> int:
    """The width whose GFLOPs are nearest; they are a polynomial of second degree in the width."""
    step = 8 if row.kind == "pst" else 4
    probes = (64, 128, 256)
    c, b, a = np.polynomial.polynomial.polyfit(probes, [cost(row, w, ratio)["gflops"] for w in probes], 2)
    return min(range(_NARROWEST, _WIDEST + 1, step), key=lambda w: abs(a * w * w + b * w + c - gflops))


def _distance(found: dict[str, Any], wanted: dict[str, Any]) -> tuple[float, float]:
    flops, parameters = (abs(math.log(found[key] / wanted[key])) for key in ("gflops", "parameters"))
    return max(flops - NEAR, 0), parameters
