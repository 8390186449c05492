"""Drawn pictures in the layout of CamVid, and a small network with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pst.backbones import build_body
from pst.io.checkpoints import save_safetensors

NETWORK = "test_efficientnet"
COUNTS = {"train": 6, "val": 2, "test": 2}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A folder of pictures of stripes; where a stripe is bright, its class is another."""
    root = tmp_path_factory.mktemp("camvid")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    (root / "classes.txt").write_text("\n".join(f"class_{i}" for i in range(12)))
    for split, count in COUNTS.items():
        names = [f"{split}_{i}" for i in range(count)]
        (root / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            classes = np.repeat(np.repeat(rng.integers(0, 12, (9, 12)), 40, 0), 40, 1).astype(np.uint8)
            shade = rng.integers(0, 40, (360, 480, 3)) + 18 * classes[..., None]
            Image.fromarray(shade.astype(np.uint8)).save(root / "images" / f"{name}.jpg", quality=95)
            Image.fromarray(classes).save(root / "masks" / f"{name}.png")
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Random weights of `NETWORK`."""
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_safetensors(build_body(NETWORK).get_submodule("model").state_dict(), path, {})
    return path
