"""Parameters and operations of a model with PST, next to its plain backbone."""

from __future__ import annotations

from typing import Any

import timm
import torch

from pst.backbones.timm import check_known
from pst.profile.flops import ModelSize, model_size

USUAL = ("resnet18", "resnet34", "resnet50", "resnet101")


def measure(name: str, **options: Any) -> ModelSize:
    """Build a model without weights and count; nothing is computed.

    Args:
        name: Any name that `timm.create_model` knows.
        options: Passed to `timm.create_model`.

    Raises:
        ValueError: timm has no such model.
    """
    check_known(name)
    with torch.device("meta"):
        model: Any = timm.create_model(name, **options).eval()
    channels, height, width = model.pretrained_cfg["input_size"]
    channels = options.get("in_chans", channels)  # timm's own models keep saying 3 there
    image = torch.empty(1, channels, height, width, device="meta")
    return model_size(name, model, image)
