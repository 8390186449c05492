"""What the command and the demo use of Ultralytics itself: nothing outside of this folder imports it."""

from __future__ import annotations

from typing import Any

from ultralytics import cfg
from ultralytics.data import utils as host_data
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import LOGGER, ROOT, TQDM
from ultralytics.utils.torch_utils import select_device

__all__ = ["LOGGER", "ROOT", "TQDM", "YOLODataset", "check_det_dataset", "entrypoint", "select_device"]


def check_det_dataset(dataset: str, *, autodownload: bool = True) -> dict[str, Any]:
    """Ultralytics' function of this name, as `register` may have wrapped it by now."""
    return host_data.check_det_dataset(dataset, autodownload=autodownload)


def entrypoint() -> None:
    """The ``yolo`` command on the arguments of this process."""
    cfg.entrypoint()
