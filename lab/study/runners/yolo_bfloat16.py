"""Training in bfloat16 on a CPU, which Ultralytics has for CUDA alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel


class Bfloat16Detector(DetectionModel):
    """A detector whose training passes run under CPU autocast; its loss, and every pass in eval mode, is in float32."""

    def predict(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the host's. In training ``x`` is float32 and so is what comes back, the layers between in bfloat16."""
        if not self.training:
            return super().predict(x, *args, **kwargs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = super().predict(x.contiguous(memory_format=torch.channels_last), *args, **kwargs)
        return _to_float(found)


def train_in_bfloat16(model: nn.Module) -> None:
    """Make a detector of Ultralytics train in bfloat16 on the CPU, with its weights kept in float32, channels last.

    Raises:
        TypeError: The model is no `DetectionModel`.
    """
    if type(model) is not DetectionModel:
        raise TypeError(f"amp: bf16 on a CPU is for a DetectionModel, got {type(model).__name__}: use amp: false")
    model.__class__ = Bfloat16Detector
    model.to(memory_format=torch.channels_last)


def _to_float(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.float() if found.is_floating_point() else found
    if isinstance(found, dict):
        return {name: _to_float(value) for name, value in found.items()}
    return type(found)(_to_float(value) for value in found)
