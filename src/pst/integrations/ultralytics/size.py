"""Parameters and operations of a model by its name."""

from __future__ import annotations

import logging
from typing import NamedTuple

from ultralytics.utils import LOGGER

from pst.integrations.ultralytics.flops import gflops
from pst.integrations.ultralytics.yolo import YOLO
from pst.io.logs import logging_at


class ModelSize(NamedTuple):
    """Size of one model.

    Attributes:
        task: As Ultralytics calls it.
        parameters: Of the model as it is trained.
        gflops: 10⁹ operations of one image, attention counted, a multiply-add as two.
        imgsz: Side of the image in pixels that ``gflops`` is for.
    """

    task: str
    parameters: int
    gflops: float
    imgsz: int


def measure(name: str, imgsz: int | None = None) -> ModelSize:
    """Build a model and count.

    Args:
        name: Whatever `YOLO` takes that is a YAML, e.g. one of `model_zoo`.
        imgsz: Side of the image in pixels; None for 224 in classification and 640 elsewhere.
    """
    with logging_at(LOGGER.name, logging.WARNING):  # a classifier logs its summary in any case
        yolo = YOLO(name)
    if imgsz is None:
        imgsz = 224 if yolo.task == "classify" else 640
    return ModelSize(str(yolo.task), sum(p.numel() for p in yolo.parameters()), gflops(yolo, imgsz), imgsz)
