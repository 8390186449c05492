"""Metrics of segmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_data
from pst.train import load_config
from pst.train.tasks import make_task

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


def test_a_mask_is_enlarged_from_the_middles_of_its_pixels(tmp_path):
    """3 pixels to 5: the nearest middles are those of 0, 0, 1, 2, 2."""
    root = tiny_data.masks(tmp_path / "set")
    for split in ("train", "val"):
        for file in [*(root / "images").glob(f"{split}*.png"), *(root / "masks").glob(f"{split}*.png")]:
            size = (3, 3) if file.parent.name == "masks" else (3, 3, 3)
            pixels = np.zeros(size, np.uint8)
            if len(size) == 2:
                pixels[:] = [1, 2, 3]
            Image.fromarray(pixels).save(file)
    task = make_task(load_config("segment", overrides={"data": str(root), "imgsz": 20, "check_images": False}))
    columns = task.dataset("val")[0].targets[0, 0]
    wide = torch.tensor([1, 2, 3]).repeat_interleave(20)[torch.arange(20) * 3 + 1]
    assert columns.tolist() == wide.tolist()
