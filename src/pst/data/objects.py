"""What an image of a detection data set shows."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Boxes(NamedTuple):
    """What one image shows.

    Attributes:
        boxes: (n, 4) float32, left, top, right, bottom as shares of the image's width and height, in [0, 1].
        labels: (n,) int64 class indices.
        crowd: (n,) bool, regions that count neither for nor against a detector.
        segments: Of the n objects, in pixels: a list of polygons x, y, x, y, …, or COCO's uncompressed run lengths
            {"size": [height, width], "counts": […]}. None where they were not asked for.
        size: (width, height) that the annotation states, or None.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    segments: list[Any] | None = None
    size: tuple[int, int] | None = None

    def only(self, keep: Tensor) -> Boxes:
        """The objects for which ``keep``, (n,) bool, is set."""
        segments = None if self.segments is None else [s for s, k in zip(self.segments, keep, strict=True) if k]
        return Boxes(self.boxes[keep], self.labels[keep], self.crowd[keep], segments, self.size)
