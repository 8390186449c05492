"""What pst's own trainer keeps of every image gives its own metrics again, and costs are in the result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pst
from lab.study import latency
from lab.study.grid import load_study
from lab.study.recipes import apply, counted
from lab.study.variants import Variant

pytest.importorskip("accelerate")
pytest.importorskip("faster_coco_eval")

VARIANT = Variant(k=2, fusion="refine", selection="random:3", gate=None, imgsz=None, use="trained")


def detector(images: list[int]) -> tuple[dict[str, list[Any]], float]:
    """Columns of a detector over eight images, a crowd among the objects; COCO's own figure for some of them."""
    from pst.data.images import Boxes
    from pst.train.tasks.detection_metrics import coco_metrics, match

    torch.manual_seed(1)
    records, truth = [], []
    for i in range(8):
        corner, size = 100 * torch.rand(4, 2), 20 + 60 * torch.rand(4, 2)
        boxes, labels = torch.cat([corner, corner + size], 1), torch.randint(3, (4,))
        crowd = torch.tensor([False, False, False, i == 0])
        found = {
            "index": i,
            "size": (200, 200),
            "boxes": (boxes.repeat(3, 1) + 5 * torch.randn(12, 4)).tolist(),
            "scores": torch.rand(12).tolist(),
            "labels": labels.repeat(3).tolist(),
        }
        records.append(found)
        truth.append(Boxes(boxes=boxes, labels=labels, crowd=crowd))
    rows = [match(r, t) for r, t in zip(records, truth, strict=True)]
    some = coco_metrics([records[i] for i in images], [truth[i] for i in images], ["a", "b", "c"])
    return {name: [row[name] for row in rows] for name in rows[0]}, some["map"]


@pytest.mark.parametrize("images", [list(range(8)), [0, 2, 3, 5, 7]])
def test_weights_of_one_and_zero_give_cocos_figure_for_these_images(images):
    from lab.study.runners.pst_train import _score

    columns, expected = detector(images)
    weights = torch.zeros(1, 8, dtype=torch.float64)
    weights[0, images] = 1
    assert 0.1 < expected < 0.95
    assert float(_score("detect", columns, weights, "cpu")[0]) == pytest.approx(expected, abs=1e-6)


def test_a_variant_is_set_on_every_layer():
    model = nn.ModuleList([pst.PyramidSparseAttention(32, 1), pst.PyramidSparseAttention(32, 1)])
    apply(model, VARIANT)
    for layer in model:
        assert isinstance(layer, pst.PyramidSparseAttention)
        assert (layer.topk, layer.fusion) == (2, "refine")
        assert "seed=3" in repr(layer.selection)
    apply(model, replace(VARIANT, k=(0, 5)))
    assert pst.control.attention_layers(model)["0"].topk == 0
    assert pst.control.attention_layers(model)["1"].topk == 5
    x, upper = torch.randn(1, 32, 8, 8), torch.randn(1, 32, 4, 4)
    constant = Variant(k=16, fusion="gate", selection="mean", gate=0.25, imgsz=None, use="trained")
    layer = apply(pst.PyramidSparseAttention(32, 1), constant).eval()
    assert isinstance(layer, pst.PyramidSparseAttention)
    assert layer.gate is not None
    assert torch.count_nonzero(layer.gate.weight) == 0
    torch.testing.assert_close(layer.gate.bias.sigmoid(), torch.full_like(layer.gate.bias, 0.25))
    assert torch.isfinite(layer(x, upper)).all()


def test_a_cell_is_trained_validated_on_the_way_and_evaluated_by_block(tmp_path: Path):
    """Two epochs on sixteen made pictures; the second point of the curve is the model that is evaluated."""
    from PIL import Image

    from lab.study.runners import pst_train
    from lab.study.task import Task

    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label, level in (("dark", 60), ("light", 190)):
            folder = tmp_path / "made" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(level, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    study = tmp_path / "small.yaml"
    study.write_text(
        "runner: classify\nrecipes: {r: {}}\n"
        "data: {a: {path: made, train: {imgsz: 64, epochs: 2, batch: 8, val_every: 1}}}\n"
        "models: {pst: {model: pst_resnet10t, model_args: {depth: 2}, evaluations: blocks}}\n"
        "evaluations: {blocks: [{k: 0}, {k: [1, [1, 0], [0, 1]], fusion: refine}]}\n"
        "cells: [{data: a, model: pst, recipe: r}]\n"
    )
    (cell,) = load_study(study).cells
    result = pst_train.run(Task(cell, tmp_path, tmp_path, tmp_path / "work", "cpu", lambda _: None))
    assert [name.split(".")[-2:] for name in result["layers"]] == [["0", "attn"], ["1", "attn"]]
    assert list(result["evaluations"]) == ["k0", "k1-refine", "k1,0-refine", "k0,1-refine"]
    flops = result["gflops"]
    assert flops["k0"] < flops["k1,0-refine"] == flops["k0,1-refine"] < flops["k1-refine"]
    curve = result["training"]["curve"]
    assert [epoch for epoch, _ in curve] == [1, 2]
    assert curve[-1][1] == result["evaluations"]["k0"]["value"]


def test_latency_is_measured_for_every_counted_variant(tmp_path: Path):
    study = tmp_path / "small.yaml"
    study.write_text(
        "runner: classify\ndata: {a: {path: a, train: {imgsz: 64, epochs: 1}}}\nrecipes: {r: {}}\n"
        "models: {plain: {model: resnet10t}, pst: {model: pst_resnet10t, evaluations: few}}\n"
        "evaluations: {few: [{k: 0}, {k: [1, 2], fusion: refine}]}\n"
        "cells: [{data: a, model: [plain, pst], recipe: r}]\n"
    )
    record = json.loads(latency.measure(study, tmp_path, seconds=0.1).read_text())
    assert {name: sorted(ms) for name, ms in record["ms_per_image"]["64"].items()} == {
        "plain": ["k0"], "pst": ["k0", "k1-refine", "k2-refine"],
    }  # fmt: skip
    assert all(ms > 0 for model in record["ms_per_image"]["64"].values() for ms in model.values())
    assert [v.name for v in counted(load_study(study).cells[1])] == ["k0", "k1-refine", "k2-refine"]
