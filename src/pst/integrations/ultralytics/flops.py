"""Floating point operations, those of attention included."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.engine.model import Model
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import BaseModel


def gflops(model: nn.Module, imgsz: int | Sequence[int] = 640) -> float:
    """10⁹ operations, a multiply-add being two, of one prediction on one image.

    Convolutions and matrix products are counted, and so are both products of attention, which published figures
    leave out. ``model.info()`` shows the same for a model with PST layers. The fused model is counted: no batch norms,
    and no heads that only training needs. Nothing is computed and ``model`` is not changed.

    Args:
        model: A YOLO object or its ``.model``, with k as it is set.
        imgsz: Side of the image in pixels, or (height, width).

    Raises:
        TypeError: ``model`` is no Ultralytics model, or an exported one.
    """
    module, image = without_values(model, imgsz)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # MATH: attention as the two products it is
        module(image)
    return counter.get_total_flops() / 1e9


def without_values(model: nn.Module, imgsz: int | Sequence[int] = 640) -> tuple[nn.Module, Tensor]:
    """What can be counted on: a copy in eval mode, fused, and one image for it, both on the meta device.

    Args:
        model: A YOLO object or its ``.model``; not changed.
        imgsz: Side of the image in pixels, or (height, width).

    Raises:
        TypeError: ``model`` is no Ultralytics model, or an exported one.
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
