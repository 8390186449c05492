"""The committed studies' evaluations on the models that they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lab
import pst
from lab.study import recipes as attention
from lab.study.grid import Cell, load_study
from lab.study.latency import _build
from pst.control import attention_layers

STUDIES = Path(lab.__file__).parent / "studies"


def first_cells(path: Path) -> dict[str, Cell]:
    """One cell of every model with PST layers whose evaluations are listed."""
    cells = [cell for cell in load_study(path).cells if cell.settings["evaluations"] is not None]
    return {cell.model: cell for cell in reversed(cells)}


def built(cell: Cell, folder: Path) -> Any:
    pytest.importorskip({"ultralytics": "ultralytics", "detect": "torchvision"}.get(cell.runner, "timm"))
    return _build(cell, folder, 64, 1)[0]


FILES = sorted(path for path in STUDIES.rglob("*.yaml") if path.parent.name != "models" and path.stem != "retrieval")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STUDIES)))
def test_every_evaluation_fits_its_model(path):
    """What does not fit would be refused when the cell is run; here it is noticed when it is written."""
    cells = first_cells(path)
    assert cells
    for cell in cells.values():
        model = built(cell, path.parent)
        for other in {c.variants: c for c in load_study(path).cells if c.model == cell.model}.values():
            attention.check(model, other)


SMALL: dict[str, tuple[dict[str, Any], int]] = {  # runner -> a model of it, its number of attention layers
    "ultralytics": ({"yaml": str(STUDIES / "models" / "neck-pst.yaml")}, 2),
    "classify": ({"model": "pst_resnet10t"}, 1),
    "segment": ({"encoder": "resnet18", "neck": "pst"}, 3),
    "detect": ({"model": "fcos", "backbone": "resnet18", "neck": "pst"}, 2),
}


@pytest.mark.parametrize("runner", SMALL)
def test_k_of_each_layer_reaches_the_layers_of_every_runners_model(tmp_path, runner):
    """And a list of another length is refused, with the names of the layers."""
    entry, count = SMALL[runner]
    given = [0] * (count - 1) + [8]
    study = {
        "runner": runner, "data": {"a": {"path": "a"}}, "models": {"m": {**entry, "evaluations": "each"}},
        "recipes": {"r": {}}, "cells": [{"data": "a", "model": "m", "recipe": "r"}],
        "evaluations": {"each": [{"k": 0}, {"k": [given] if count > 1 else 8, "fusion": "refine"}]},
    }  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    (cell,) = load_study(path).cells
    model = built(cell, tmp_path)
    attention.check(model, cell)
    assert [layer.topk for layer in attention_layers(model).values()] == [0] * count  # it tried a copy
    attention.apply(model, cell.variants[1])
    assert [(layer.topk, layer.fusion) for layer in attention_layers(model).values()] == [(k, "refine") for k in given]
    study["evaluations"]["each"][1]["k"] = [[8, *[0] * count]]
    path.write_text(yaml.safe_dump(study))
    with pytest.raises(ValueError, match=f"got {count + 1} values of k for {count} PST layers"):
        attention.check(model, load_study(path).cells[0])


def test_a_recipe_is_set_on_every_layer():
    model = torch.nn.Sequential(*(pst.PyramidSparseAttention(16, 2) for _ in range(2)))
    attention.prepare(model, {})
    layers = attention_layers(model).values()
    assert [(m.fusion, m.selection, m.fine_statistics) for m in layers] == [("gate", "mean", None)] * 2
    attention.prepare(model, {"fusion": "refine", "selection": "window", "track_fine_statistics": True})
    assert [(m.fusion, m.selection) for m in layers] == [("refine", "window")] * 2
    assert all(m.fine_statistics is not None for m in layers)


def test_k_is_drawn_until_the_recipes_block_ends():
    recipe = {"stochastic_topk": {"choices": [3], "share": 1.0}, "train": {"epochs": 2}}
    draws = torch.Generator().manual_seed(0)
    before = draws.get_state()
    layer = pst.PyramidSparseAttention(16, 2)
    maps = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 2, 2)
    with attention.prepare(layer, recipe, draws):
        layer.train()(*maps)
        assert layer.drawn_topk == 3
        assert not torch.equal(draws.get_state(), before)  # not the global generator's numbers
    assert layer.drawn_topk is None
    after = draws.get_state()
    layer(*maps)
    assert layer.drawn_topk is None
    assert torch.equal(draws.get_state(), after)
