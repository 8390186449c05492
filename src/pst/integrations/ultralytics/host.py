"""What the command and the demo use of Ultralytics itself: nothing outside of this folder imports it."""

from __future__ import annotations

from typing import Any

import torch
from ultralytics import cfg
from ultralytics.data import utils as host_data
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import LOGGER, ROOT, TQDM
from ultralytics.utils.torch_utils import select_device

__all__ = ["LOGGER", "ROOT", "TQDM", "YOLODataset", "check_det_dataset", "check_device", "entrypoint"]


def check_det_dataset(dataset: str, *, autodownload: bool = True) -> dict[str, Any]:
    """Ultralytics' function of this name, as `register` may have wrapped it by now."""
    return host_data.check_det_dataset(dataset, autodownload=autodownload)


def check_device(device: str) -> None:
    """Raise ValueError for a device that is not there; PyTorch keeps its threads, one of which Ultralytics takes."""
    threads = torch.get_num_threads()
    try:
        select_device(device, verbose=False)
    finally:
        torch.set_num_threads(threads)


def entrypoint() -> None:
    """The ``yolo`` command on the arguments of this process."""
    cfg.entrypoint()
