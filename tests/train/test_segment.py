"""Metrics of segmentation."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchmetrics")


def test_iou_is_that_of_the_pixels_of_each_class():
    from pst.train.tasks.segment import class_iou

    real, found = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 1, 1, 1, 2, 0])
    confusion = torch.zeros(3, 3, dtype=torch.float64)
    for r, f in zip(real, found, strict=True):
        confusion[r, f] += 1
    expected = [float(((real == c) & (found == c)).sum() / ((real == c) | (found == c)).sum()) for c in (0, 1)]
    got = class_iou(torch.stack([confusion, 2 * confusion]))
    torch.testing.assert_close(got[:, :2], torch.tensor([expected, expected], dtype=torch.float64))
    assert got[:, 2].isnan().all()  # it does not occur in the truth
