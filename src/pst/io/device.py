"""Whether a device that was asked for is here."""

from __future__ import annotations

import torch


def check_cuda(device: str) -> None:
    """Refuse CUDA where PyTorch finds no such device; any other device passes.

    Raises:
        ValueError: ``device`` is "cuda" or one of its devices, and there is none.
    """
    if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"there is no {device} here, since PyTorch finds no CUDA device: use cpu as the device")
