"""Masks of single objects, drawn from COCO's segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from pst.data.images import fitted


def draw_segments(segments: Sequence[Any] | None, size: tuple[int, int], edge: int) -> Tensor:
    """Masks of an image's objects, letterboxed as the image is.

    Args:
        segments: As in `pst.data.objects.Boxes`; None for an image without objects.
        size: (width, height) of the image in pixels.
        edge: Of the letterboxed image, in pixels.

    Returns:
        (n, edge, edge) uint8, 0 or 1.
    """
    width, height = size
    small = fitted(height, width, edge)
    out = torch.zeros(0 if segments is None else len(segments), edge, edge, dtype=torch.uint8)
    for i, segment in enumerate(() if segments is None else segments):
        runs = coco_mask.frPyObjects(segment, height, width)
        runs = coco_mask.merge(runs) if isinstance(runs, list) else runs
        mask = torch.from_numpy(coco_mask.decode(runs))
        out[i, : small[0], : small[1]] = F.interpolate(mask[None, None], small, mode="nearest-exact")[0, 0]
    return out
