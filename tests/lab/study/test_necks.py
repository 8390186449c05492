"""The models that studies compare: only the neck differs, and all cost the same."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

import lab
import pst

pytest.importorskip("ultralytics")

MODELS = Path(lab.__file__).parent / "studies" / "models"
METHODS = ("a2c2f", "bifpn", "cross-attention", "fpn", "none", "pan", "pst")
NAMES = [f"neck-{method}" for method in METHODS]
BACKBONE = 11  # rows


@cache
def built(name: str) -> Any:
    from lab.study.runners import yolo_sums  # noqa: F401  # pyright: ignore[reportUnusedImport] adds Sum rows
    from pst.integrations.ultralytics import YOLO

    return YOLO(MODELS / f"{name}.yaml")


def cost(name: str) -> tuple[int, float]:
    from pst.integrations.ultralytics import gflops

    return sum(p.numel() for p in built(name).parameters()), gflops(built(name), 320)


def test_every_method_is_there():
    assert sorted(path.stem for path in MODELS.glob("*.yaml")) == [*NAMES, "neck-pst-2-blocks"]


def test_two_blocks_are_the_same_neck_but_for_the_depth_of_its_pst_rows():
    yaml = pytest.importorskip("yaml")
    one, two = (yaml.safe_load((MODELS / f"{name}.yaml").read_text()) for name in ("neck-pst", "neck-pst-2-blocks"))
    rows = [(a, b) for a, b in zip(one["head"], two["head"], strict=True) if a != b]
    assert [b for _, b in rows] == [[a[0], 2, *a[2:]] for a, _ in rows if a[2] == "PST"]
    assert {**one, "head": []} == {**two, "head": []}
    layers = list(pst.control.attention_layers(built("neck-pst-2-blocks").model))
    assert layers == [f"model.{row}.blocks.{block}.attn" for row in (13, 16) for block in (0, 1)]


@pytest.mark.parametrize("name", NAMES)
def test_costs_agree_with_the_reference_within_5_percent(name):
    parameters, operations = cost(name)
    expected = cost("neck-pan")
    assert parameters == pytest.approx(expected[0], rel=0.05)
    assert operations == pytest.approx(expected[1], rel=0.05)


def test_the_reference_is_yolo11n():
    from pst.integrations.ultralytics import measure

    assert cost("neck-pan") == measure("yolo11n.yaml", 320)[1:3]


@pytest.mark.parametrize("name", NAMES)
def test_backbone_and_head_are_the_same(name):
    def shapes(model: Any, rows: slice) -> list[list[tuple[int, ...]]]:
        return [[tuple(t.shape) for t in row.state_dict().values()] for row in list(model.model.model)[rows]]

    for rows in (slice(0, BACKBONE), slice(-1, None)):
        assert shapes(built(name), rows) == shapes(built("neck-pan"), rows)


def test_attention_reaches_all_fine_tokens_and_pst_none():
    attention = {
        name: [m for m in built(name).model.modules() if isinstance(m, pst.PyramidSparseAttention)] for name in NAMES
    }
    assert all(m.topk >= 10_000 and m.fusion == "refine" for m in attention.pop("neck-cross-attention"))
    assert [m.topk for m in attention.pop("neck-pst")] == [0, 0]
    assert not any(attention.values())
