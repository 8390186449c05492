"""One small detector that knows four images by heart, shared by the tests that need boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

SIDE = 28
CORNERS = ((2, 4), (30, 28), (6, 32), (34, 3))  # top, left
COLOURS = ((1.0, 0.2, 0.0), (0.0, 0.8, 1.0))  # of class 0 and of class 1


@pytest.fixture(scope="session")
def four() -> tuple[Tensor, Tensor]:
    """Images (4, 3, 64, 64), and targets (4, 1, 5) as LibreYOLO's YOLO9 takes them: class, x1, y1, x2, y2 in 0 … 1."""
    images, targets = torch.full((4, 3, 64, 64), 0.35), torch.zeros(4, 1, 5)
    for i, (top, left) in enumerate(CORNERS):
        images[i, :, top : top + SIDE, left : left + SIDE] = torch.tensor(COLOURS[i % 2]).view(3, 1, 1)
        targets[i, 0] = torch.tensor([64 * (i % 2), left, top, left + SIDE, top + SIDE]) / 64
    return images, targets


@pytest.fixture(scope="module")
def learned(four: tuple[Tensor, Tensor]) -> Any:
    """A `LibreYOLO9PST` trained on `four` until it is sure of each box and places it, and its losses.

    How many steps that takes depends on the processor's rounding: 30 to 90 have been seen.
    """
    libreyolo = pytest.importorskip("libreyolo", reason="LibreYOLO is not installed")
    from pst.integrations.libreyolo import add_pst

    model = add_pst(libreyolo.LibreYOLO9(None, size="t", device="cpu", nb_classes=2), topk=2)
    (images, targets), losses = four, []
    optimizer = torch.optim.AdamW(model.model.parameters(), 4e-3)
    for _ in range(20):
        for _ in range(10):
            loss = model.model.train()(images, targets=targets)["total_loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scores, overlaps = _best(model.model, images, targets)
        if min(scores) > 0.7 and min(overlaps) > 0.75:
            return model, losses
    scores, overlaps = _best(model.model, images, targets)
    pytest.fail(f"200 steps leave an image unlearned: highest scores {scores}, their boxes' IoU {overlaps}")


def _best(network: Any, images: Tensor, targets: Tensor) -> tuple[list[float], list[float]]:
    """The highest score in each image and its box's IoU, in evaluation with the statistics of just these images."""
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # the average of what follows
    with torch.no_grad():
        network.train()(images)
        boxes, scores = network.eval()(images)["predictions"].split([4, 2], dim=1)
    highest, at = scores.amax(1).max(1)
    found = boxes[torch.arange(len(images)), :, at]
    return highest.tolist(), box_iou(found, 64 * targets[:, 0, 1:]).diagonal().tolist()
