"""Operations counted, attention included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

import pst
from pst.integrations.ultralytics import YOLO, gflops, measure

pytestmark = pytest.mark.usefixtures("registered")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("yolo11n-pst", 8.86), ("yolo11s-pst", 25.94), ("yolo11m-pst", 75.08),
        ("yolo11n", 6.54), ("yolo11s", 21.59), ("yolo11m", 68.10),
    ],
)  # fmt: skip
def test_figures_of_the_spec(name: str, expected: float) -> None:
    assert round(measure(f"{name}.yaml").gflops, 2) == expected


def test_image_size_follows_the_task() -> None:
    assert measure("yolo11n-cls-pst.yaml").imgsz == 224
    assert measure("yolo11n-pst.yaml", 320).imgsz == 320


def pst_only() -> DetectionModel:
    """Stride-16 and stride-32 maps, one PST layer of one block: C = 32, one head."""
    rows = [[-1, 1, "nn.AvgPool2d", [16]], [-1, 1, "nn.AvgPool2d", [2]], [[0, 1], 1, "PST", [64]]]
    d: Any = {"nc": 2, "backbone": rows, "head": [[-1, 1, "nn.Identity", []]]}
    return DetectionModel(d, verbose=False)


@pytest.mark.parametrize("k", [0, 4])
def test_count_is_the_sum_of_the_papers_formulas(k: int) -> None:
    model = pst_only()
    pst.set_topk(model, k)
    n, m, c = 16 * 16, 8 * 8, 32
    convolutions = n * 3 * c + m * 3 * c + n * c * c + m * c * 2 * c + m * 49 * c + n * c * c  # cv1 cvup q kv pe proj
    convolutions += 2 * n * c * 2 * c + n * 2 * c * 64  # MLP, cv2
    attention = 2 * n * m * c
    fine = 2 * n * 4 * k * c + n * c * 2 * c + n * 2 * c * c if k else 0  # attention over 4k tokens, kv of all, gate
    assert gflops(model, 256) == pytest.approx(2e-9 * (convolutions + attention + fine), rel=1e-12)


def test_training_only_heads_are_not_counted() -> None:
    """YOLO26 trains two heads and predicts with one."""
    model = YOLO("yolo26n-pst-neck.yaml").model.eval()
    before = gflops(model, 64)
    assert gflops(model.fuse(verbose=False), 64) == before


def test_model_is_not_changed() -> None:
    yolo = YOLO("yolo26n-pst-neck.yaml")
    before = {key: value.clone() for key, value in yolo.model.state_dict().items()}
    gflops(yolo, 64)
    assert yolo.model.training
    assert torch.equal(yolo.model.stride, torch.tensor([8.0, 16.0, 32.0]))
    after = yolo.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a YOLO object with a PyTorch model, or its \.model, got Linear"):
        gflops(torch.nn.Linear(1, 1))
