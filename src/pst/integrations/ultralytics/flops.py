"""A YOLO model as it can be counted on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.engine.model import Model
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import BaseModel

from pst.profile.flops import count_flops


def gflops(model: nn.Module, imgsz: int | Sequence[int] = 640) -> float:
    """10⁹ operations of one prediction on one image, as `pst.profile.flops.count_flops` counts them.

    Both products of attention are in it, which published figures leave out. ``model.info()`` shows the same for a
    model with PST layers. The fused model is counted: no batch norms, and no heads that only training needs. Nothing is
    computed and ``model`` is not changed.

    Args:
        model: A YOLO object or its ``.model``, with k as it is set.
        imgsz: Side of the image in pixels, or (height, width).

    Raises:
        TypeError: ``model`` is not an Ultralytics model, or an exported one.
    """
    return count_flops(*without_values(model, imgsz)) / 1e9


def without_values(model: nn.Module, imgsz: int | Sequence[int] = 640) -> tuple[nn.Module, Tensor]:
    """What can be counted on: a copy in eval mode, fused, and one image for it, both on the meta device.

    Args:
        model: A YOLO object or its ``.model``; not changed.
        imgsz: Side of the image in pixels, or (height, width).

    Raises:
        TypeError: ``model`` is not an Ultralytics model, or an exported one.
    """
    module = model.model if isinstance(model, Model) else model
    if not isinstance(module, BaseModel):
        raise TypeError(f"expected a YOLO object with a PyTorch model, or its .model, got {type(module).__name__}")
    yaml: Any = module.yaml
    module = copy.deepcopy(module).eval().fuse(verbose=False)
    layers: Any = module.model
    strides = layers[-1].stride.tolist() if isinstance(layers[-1], Detect) else None
    module.to("meta")
    if strides is not None:
        layers[-1].stride = strides  # numbers: the head reads them, and a tensor on the meta device has no values
    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    return module, torch.empty(1, yaml["channels"], *size, device="meta")
