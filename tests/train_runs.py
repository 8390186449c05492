"""Small runs of the trainer that several tests share; as a script, one run of a configuration in its own process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tiny_data
from pst.train import load_config, loop

SMALL = {"device": "cpu", "batch": 2, "epochs": 2, "tensorboard": False, "warmup_epochs": 0}
DETECTOR = {
    "backbone": "test_resnet",
    "neck": "pst",
    "imgsz": 64,
    "model_args": {"backbone_options": {"out_channels": 64}},
}
SEGMENTER = {
    "encoder": "test_resnet",
    "imgsz": 64,
    "model_args": {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32},
}
TASKS: dict[str, dict[str, Any]] = {
    "classify": {**SMALL, "model": "pst_test_resnet", "imgsz": 32, "batch": 4},
    "detect": {**SMALL, **DETECTOR},
    "segment": {**SMALL, **SEGMENTER},
}
DATA = {"classify": tiny_data.folder, "detect": tiny_data.yolo, "segment": tiny_data.masks}


def settings(task: str, root: Path, **more: Any) -> dict[str, Any]:
    """Settings of a tiny run of a task; makes its data in ``root/data``."""
    data = root / "data"
    if not data.exists():
        DATA[task](data)
    return {**TASKS[task], "data": str(data), "out": str(root / "run"), **more}


def stopping(seed_step: Callable[..., None], batches: int, stop: Callable[[], None]) -> Callable[..., None]:
    """The loop's `seed_step`, which calls ``stop`` instead of beginning one batch more than ``batches``."""
    begun = 0

    def counting(seed: int, *position: int) -> None:
        nonlocal begun
        begun += len(position) > 0
        if begun > batches:
            stop()
        seed_step(seed, *position)

    return counting


def main(task: str, config: str, kill_after: int) -> None:
    """Train; after so many batches (0: never) the process ends as if killed from outside."""
    if kill_after:
        loop.seed_step = stopping(loop.seed_step, kill_after, lambda: os.kill(os.getpid(), signal.SIGKILL))
    loop.fit(load_config(task, config))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[2:]:
        name, _, file = argument.partition("=")
        main(name, file, int(sys.argv[1]))
