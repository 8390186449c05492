"""The stop at a loss that is not a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pst.io.files import replacing


class LossError(ValueError):
    """The loss became NaN or infinite."""


class Step(NamedTuple):
    """What a loss was computed from.

    Attributes:
        losses: Its parts.
        inputs: As the model got them.
        targets: As the model got them.
        indices: (B,) positions of its images in the data set.
    """

    losses: Mapping[str, Tensor]
    inputs: Any
    targets: Any
    indices: Tensor


def stop_if_not_finite(step: Step | None, files: Sequence[Path], path: Path) -> None:
    """Do nothing if the loss is finite, or ``step`` None; else save the batch to ``path``, for `torch.load`.

    Raises:
        LossError: A part of the loss is NaN or infinite.
    """
    if step is None or bool(torch.isfinite(torch.stack([value.detach() for value in step.losses.values()])).all()):
        return
    parts = {name: float(value.detach()) for name, value in step.losses.items()}
    content = {
        "losses": parts,
        "inputs": step.inputs,
        "targets": step.targets,
        "images": [str(files[i]) for i in step.indices.tolist()],
    }
    with replacing(path) as part:
        torch.save(content, part)
    raise LossError(
        f"the loss is not finite: {parts}. Inputs, targets and file names of the batch are in {path}. "
        "Try a lower lr, clip_grad=1, or amp=none."
    )
