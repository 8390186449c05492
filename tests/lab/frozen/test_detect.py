"""Boxes on a frozen network, and with the network trained: a cell on drawn squares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_data
from lab.__main__ import main
from lab.frozen import tables
from lab.frozen.rows import CHANNELS, ROWS
from lab.frozen.widths import neck_gflops
from lab.study.intervals import value


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    return tiny_data.yolo(tmp_path_factory.mktemp("squares"))


def run(data: Path, weights: Path, out: Path, *options: str) -> int:
    pytest.importorskip("faster_coco_eval", reason="the metrics of boxes need it: the train extra")
    recipe = ["--epochs", "1", "--batch", "4", "--network", "test_efficientnet", "--weights", str(weights)]
    return main(["frozen", "run", "--bccd", str(data), "--out", str(out), *recipe, "--seeds", "1", *options])


@pytest.mark.parametrize("more", [(), ("--trained",)], ids=["frozen", "trained"])
def test_a_cell_finds_boxes_and_has_a_table(squares, weights, tmp_path, more):
    rows = ["--row", "pst-add", "--row", "p2-fpn"]
    assert run(squares, weights, tmp_path, *rows, *more) == 0
    found = tables.load(tmp_path, "bccd", trained=bool(more))
    assert set(found) == {"pst-add", "p2-fpn"}
    ours, theirs = found["pst-add"][0], found["p2-fpn"][0]
    assert set(ours["val"]["evaluations"]) == {"k0", "k8-mean", "k8-window", "k8-nearest", "k8-random"}
    assert set(theirs["val"]["evaluations"]) == {"k0"}
    assert {"value", "ap50", "small", "medium", "large"} <= set(ours["val"]["evaluations"]["k0"])
    assert ours["cell"]["trained"] is bool(more)
    assert 0 <= value([ours["val"]], "k0").mean <= 1
    lines = [line.split("|")[1:-1] for line in tables.boxes(found, {"cpu": {"pst-add": 1.234}}).splitlines()]
    cells = {line[1].strip(): [cell.strip() for cell in line] for line in lines}
    assert (cells["P3"][-1], cells["P2"][-1]) == ("1.23", tables.NONE)
    column = cells["finest level"].index("GFLOPs")
    assert float(cells["P2"][column]) == pytest.approx(neck_gflops(ROWS["p2-fpn"]), abs=0.005)
    products = sum(c * 64 * (320 // s) ** 2 + 9 * 64 * 64 * (320 // s) ** 2 for s, c in CHANNELS.items())
    assert neck_gflops(ROWS["p2-fpn"]) == pytest.approx(2 * products / 1e9)
    assert tables.boxes(found, {}).splitlines()[0].endswith("seeds |")


def test_training_the_network_changes_what_is_learned(squares, weights, tmp_path):
    for more in ([], ["--trained"]):
        assert run(squares, weights, tmp_path, "--row", "fpn", *more) == 0
    losses = [json.loads((tmp_path / f"bccd-{name}-0.json").read_text())["loss"] for name in ("fpn", "trained-fpn")]
    assert losses[0] != losses[1]


def test_rows_without_boxes_are_refused(squares, weights, tmp_path, capsys):
    assert run(squares, weights, tmp_path, "--row", "smp-fpn") == 2
    assert "smp-fpn" in capsys.readouterr().err
