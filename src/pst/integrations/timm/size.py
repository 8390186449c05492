"""Parameters and operations of a model with PST, next to its plain backbone."""

from __future__ import annotations

from typing import Any, NamedTuple

import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class ModelSize(NamedTuple):
    """Size of one model.

    Attributes:
        name: timm's.
        parameters: Of the whole model.
        gflops: 10⁹ operations for one image, a multiply-add being two, both products of attention counted.
        image_size: (height, width) in pixels that ``gflops`` is for.
    """

    name: str
    parameters: int
    gflops: float
    image_size: tuple[int, int]


def measure(name: str, **options: Any) -> ModelSize:
    """Build a model without weights and count; nothing is computed.

    Args:
        name: Any name that `timm.create_model` knows.
        options: Passed to `timm.create_model`.

    Raises:
        ValueError: timm has no such model.
    """
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}: timm.list_models('*name*') searches by name")
    with torch.device("meta"):
        model: Any = timm.create_model(name, **options).eval()
    channels, height, width = model.pretrained_cfg["input_size"]
    channels = options.get("in_chans", channels)  # timm's own models keep saying 3 there
    parameters = sum(p.numel() for p in model.parameters())
    return ModelSize(name, parameters, _gflops(model, (channels, height, width)), (height, width))


def _gflops(model: nn.Module, image: tuple[int, int, int]) -> float:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # MATH: attention as the two products it is
        model(torch.empty(1, *image, device="meta"))
    return counter.get_total_flops() / 1e9
