"""Ultralytics switched on and off, and a detection set small enough to train on in seconds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tiny_data


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
    with _collected(logging.WARNING) as messages:
        yield messages


@pytest.fixture
def host_log() -> Iterator[list[str]]:
    """What Ultralytics logs during one test; its log does not reach pytest's own fixture."""
    with _collected(logging.INFO) as messages:
        yield messages


@contextmanager
def _collected(level: int) -> Iterator[list[str]]:
    from ultralytics.utils import LOGGER

    handler = _Collector(level)
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
    """data.yaml of eight images for each split."""
    return tiny_data.squares(tmp_path_factory.mktemp("boxes"))


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
