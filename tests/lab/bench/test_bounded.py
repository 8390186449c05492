"""The benchmark of bounded coarse tokens, and its targets."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from lab.bench import bounded, detectors
from lab.bench.targets import TARGETS, judge
from pst.control import attention_layers

NECK = "PSTPyramid, 100 tokens / torchvision's FPN of equal parameters"


def figures(records: list[dict[str, Any]], suite: str = "bounded") -> dict[str, float]:
    """What -> figure, of the targets that these records decide."""
    return {r["what"]: r["value"] for r in judge({suite: {"records": records}}) if r["value"] is not None}


def test_every_case_is_measured_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SIDES", (64, 128))
    monkeypatch.setattr(bounded, "added_memory", lambda call, side, threads: side**2 / 1000)
    records = bounded.run_bounded(seconds=0.01, min_runs=2)
    assert [r["group"] for r in records] == ["layer"] * 3 + ["neck"] * 3 + ["pyramid"] * 2
    judged = figures(records)
    assert len(judged) == (4 if sys.platform == "linux" else 3)
    by_name = {r["name"]: r["ms"]["median"] for r in records}
    assert judged["PST layer, 80×80 over 40×40, C = 128: 100 tokens / all"] == pytest.approx(
        by_name["PST, 100 tokens"] / by_name["PST, all tokens"]
    )
    grown = {r["pixels"]: r["ms"]["median"] for r in records if "pixels" in r}
    assert judged["PSTPyramid, 400 tokens, time per pixel: 2560 px / 640 px"] == pytest.approx(
        grown[128**2] / grown[64**2] / 4
    )
    if sys.platform == "linux":
        assert judged["PSTPyramid, 400 tokens, memory per pixel: 2560 px / 640 px"] == pytest.approx(1)


def test_the_rival_has_the_pyramids_parameters() -> None:
    necks = bounded._necks()
    fpn, *ours = (sum(p.numel() for p in neck.parameters()) for neck in necks.values())
    assert fpn == bounded.fpn_parameters(int(next(iter(necks)).split()[-2]))
    assert fpn == pytest.approx(ours[-1], rel=0.05)
    assert NECK in [target.what for target in TARGETS]
    assert attention_layers(necks["PSTPyramid, 100 tokens"]).popitem()[1].settings.max_tokens == 100


def test_detectors_with_a_bound_and_some_rows_alone() -> None:
    pytest.importorskip("ultralytics", reason="the ultralytics extra is not installed")
    yolo = detectors.build("yolo11n-pst k=8 tokens=100")
    assert {(at.topk, at.settings.max_tokens) for at in attention_layers(yolo).values()} == {(8, 100)}
    rows: Any = detectors._fused("yolo11n-pst k=0, its A2C2f rows")
    seen: list[nn.Module] = []
    for row in rows.rows:
        row.register_forward_hook(lambda module, *_: seen.append(module))
    rows.eval()
    with torch.inference_mode():
        rows(torch.rand(1, 3, 64, 64))
        first = len(seen)
        rows(torch.rand(1, 3, 64, 64))
    assert len(rows.rows) == 3
    assert (first, len(seen)) == (6, 9)  # the first call runs the whole model for the rows' inputs
