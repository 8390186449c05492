"""Ultralytics switched on and off, and a detection set small enough to train on in seconds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def registered() -> Iterator[None]:
    """The plugin switched on for one test, and off again."""
    from pst.integrations.ultralytics import register, unregister

    register()
    yield
    unregister()


@pytest.fixture
def host_warnings() -> Iterator[list[str]]:
    """What Ultralytics logs at WARNING or above during one test."""
    from ultralytics.utils import LOGGER

    handler = _Collector(logging.WARNING)
    LOGGER.addHandler(handler)
    yield handler.messages
    LOGGER.removeHandler(handler)


class _Collector(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(scope="session")
def boxes_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of eight 64 px images for each split: bright squares (0) and dark ones (1) on grey noise."""
    from PIL import Image

    root = tmp_path_factory.mktemp("boxes")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(8):
            image = rng.normal(128, 10, (64, 64, 3))
            label, size = i % 2, 24
            x, y = rng.integers(0, 64 - size, 2)
            image[y : y + size, x : x + size] = 255 if label == 0 else 0
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / split / f"{i}.png")
            box = (label, (x + size / 2) / 64, (y + size / 2) / 64, size / 64, size / 64)
            (root / "labels" / split / f"{i}.txt").write_text(" ".join(map(str, box)) + "\n")
    data = root / "data.yaml"
    data.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: {{0: bright, 1: dark}}\n")
    return data


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, boxes_data: Path) -> Path:
    """best.pt of YOLO11n-PST trained for one epoch with the public interface."""
    from pst.integrations.ultralytics import YOLO

    project = tmp_path_factory.mktemp("train")
    yolo = YOLO("yolo11n-pst.yaml")
    yolo.train(
        data=str(boxes_data), epochs=1, imgsz=64, batch=4, device="cpu", workers=0, project=str(project), name="run",
        plots=False, pretrained=False, verbose=False, amp=False, seed=0,
    )  # fmt: skip
    best = project / "run" / "weights" / "best.pt"
    assert best.is_file()
    return best
