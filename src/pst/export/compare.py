"""How far an exported file is from the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Difference(NamedTuple):
    """Over all inputs of a comparison. Of labels: whether any differ, the share that does, and 1.

    Attributes:
        max: Largest absolute difference of an element.
        mean: Mean absolute difference.
        scale: Largest magnitude of the eager output, to read the two against.
    """

    max: float
    mean: float
    scale: float


def compare(
    eager: Callable[..., Tensor],
    exported: Callable[..., Tensor],
    inputs: Iterable[Sequence[Tensor]],
    *,
    labels: bool = False,
) -> Difference:
    """Run both on the same inputs; give other images and sizes than the export was made with.

    Args:
        eager: The model, in eval mode.
        exported: What `pst.export.load` returned.
        inputs: Arguments of one call each.
        labels: The outputs are class indices, of which one more is as wrong as ten more: what differs counts 1.

    Raises:
        ValueError: The outputs differ in shape, one holds a number that is not finite, or there are no inputs.
    """
    largest, total, count, scale = 0.0, 0.0, 0, 0.0
    for args in inputs:
        with torch.no_grad():
            want, got = eager(*args).double(), exported(*args).double()
        if want.shape != got.shape:
            raise ValueError(f"the exported file returns shape {tuple(got.shape)}, the model {tuple(want.shape)}")
        if not bool(torch.isfinite(want).all() and torch.isfinite(got).all()):
            raise ValueError("an output is not finite: the comparison would mean nothing")
        gap = (want != got).double() if labels else (want - got).abs()
        largest, scale = max(largest, gap.max().item()), 1.0 if labels else max(scale, want.abs().max().item())
        total, count = total + gap.sum().item(), count + gap.numel()
    if count == 0:
        raise ValueError("nothing to compare: pass at least one input")
    return Difference(largest, total / count, scale)
