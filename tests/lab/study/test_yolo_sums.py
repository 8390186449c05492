"""Sum rows."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lab
from lab.study.runners.yolo_sums import SumRow

pytestmark = pytest.mark.usefixtures("registered")


def build(row: list[Any], **top: Any) -> nn.Module:
    from ultralytics.nn import tasks

    d = {
        "nc": 2,
        "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 1]], [-1, 1, "Conv", [32, 3, 1]]],
        "head": [row, [[3], 1, "Detect", ["nc"]]],
        **top,
    }
    model: Any = tasks.DetectionModel
    return model(copy.deepcopy(d), verbose=False)


def test_every_file_that_builds_a_detector_can_build_one_with_sums():
    """The parser reads such a row only once `yolo_sums` was imported, and no test may be needed for that."""
    root = Path(lab.__file__).parent
    builds = re.compile(r"\b(import YOLO|DetectionModel\(str|class \w+\(DetectionTrainer)\b")
    files = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in root.rglob("*.py")}
    builders = {name for name, text in files.items() if builds.search(text)}
    assert {"study/latency.py", "study/runners/yolo_cells.py", "study/selection_pictures.py"} <= builders
    assert [name for name in sorted(builders) if "import yolo_sums" not in files[name]] == []


def test_a_plain_sum():
    maps = [torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(3)]
    torch.testing.assert_close(SumRow(3)(maps), maps[0] + maps[1] + maps[2])
    assert not list(SumRow(3).parameters())


def test_a_weighted_sum_is_normalised_and_never_subtracts():
    row = SumRow(3, weighted=True).double()
    assert row.weight is not None
    row.weight.data = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    maps = [torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    torch.testing.assert_close(row(maps), (maps[0] + 3 * maps[2]) / (4 + 1e-4))
    row(maps).sum().backward()
    assert row.weight.grad is not None
    assert row.weight.grad[0] != 0


def test_it_is_a_row_of_a_model_and_scaled_with_it():
    model: Any = build([[0, 1], 1, "Sum", [16, {"weighted": True}]])
    assert (model.model[3].sources, model.model[3].f, model.model[3].np) == (2, [0, 1], 2)
    assert {0, 1} <= set(model.save)
    wide: Any = build([[0, 1], 1, "Sum", [16]], scales={"n": [1.0, 2.0, 1024]}, scale="n")
    assert wide.model[0].conv.out_channels == 32
    assert wide.model[3].weight is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([[0, 2], 1, "Sum", [16]], "sources of \\[16, 32\\] channels"),
        ([[0, 1], 2, "Sum", [16]], "is not a Sum row"),
        ([0, 1, "Sum", [16]], "is not a Sum row"),
        ([[0, 1], 1, "Sum", [16, {"weights": True}]], "is not a Sum row"),
        ([[0], 1, "Sum", [16]], "two maps at least"),
    ],
)
def test_a_malformed_row_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        build(row)


def test_maps_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="2 maps of one shape"):
        SumRow(2)([torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 6, 6)])


def test_a_checkpoint_of_it_can_be_loaded(tmp_path: Path):
    from pst.integrations.ultralytics import YOLO

    model: Any = build([[0, 1], 1, "Sum", [16, {"weighted": True}]])
    model.names = {0: "a", 1: "b"}
    torch.save({"model": model}, tmp_path / "model.pt")
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(YOLO(tmp_path / "model.pt").model(x)[0], model.eval()(x)[0])
