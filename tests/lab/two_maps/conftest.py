"""A small CamVid of made frames, and features that need no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Two drives: frames of one stand 1/15 s apart, of the other 1 s; every frame shows a square that moves."""
    root = tmp_path / "camvid"
    names = [f"0016E5_{7959 + 2 * i:05d}" for i in range(20)] + [f"Seq05VD_f{30 * i:05d}" for i in range(4)]
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i, name in enumerate(names):
        mask = np.full((360, 480), i % 3, np.uint8)
        mask[100:200, 10 * i : 10 * i + 100] = 2
        mask[:20] = 255
        picture = np.random.default_rng(i).integers(0, 60, (360, 480, 3)).astype(np.uint8) + 40 * (mask % 4)[..., None]
        Image.fromarray(picture.astype(np.uint8)).save(root / "images" / f"{name}.jpg")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    for split in ("train", "val", "test"):
        (root / f"{split}.txt").write_text("\n".join(names), encoding="utf-8")
    return root


def made_features(images: Tensor) -> Tensor:
    """(1, 3, H, W) -> (16, H/4, W/4): colours of a patch, unit length."""
    maps = F.pixel_unshuffle(F.avg_pool2d(images, 2), 2)[0]
    return F.normalize(torch.cat([maps, torch.ones_like(maps[:4])]) - 0.3, dim=0)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made features in place of both networks."""
    from lab.two_maps import colour, matching, run_labels, run_trained, scales

    for module in (colour, matching, run_labels, run_trained, scales):
        monkeypatch.setattr(module, "extractor", lambda _: made_features)
    for module in (run_labels, scales):
        monkeypatch.setattr(module, "raw_extractor", lambda: made_features)
        monkeypatch.setattr(module, "missing", lambda _: None)
