"""What is marked in the first picture of a clip, to be carried to the others."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pst.explore.clip import Clip
from pst.explore.draw import Place, enlarged, marked
from pst.io.names import counted
from pst.propagate.masks import palette_of
from pst.propagate.pictures import overlay

_SMALLEST = 0.01  # of a box, as a share of the picture's side


@dataclass
class Marks:
    """What is marked in the first picture.

    Attributes:
        points: Places.
        boxes: Pairs of opposite corners; label i + 1 for the i-th.
        mask: Labels, of the picture's size; in place of the boxes.
        corner: First corner of a box that waits for its second.
    """

    points: list[Place] = field(default_factory=list)
    boxes: list[tuple[Place, Place]] = field(default_factory=list)
    mask: Image.Image | None = None
    corner: Place | None = None

    def click(self, place: Place, kind: str) -> None:
        """Mark a point, or a corner of a box."""
        if kind == "point":
            self.corner = None
            self.points.append(place)
        elif self.corner is None:
            self.corner = place
        else:
            (left, right), (top, bottom) = (sorted(pair) for pair in zip(self.corner, place, strict=True))
            if min(right - left, bottom - top) < _SMALLEST:  # the first corner stays, as the page shows it
                raise ValueError("the two corners are too near to each other: click on the opposite corner of the box")
            self.corner = None
            self.boxes.append(((left, top), (right, bottom)))

    def labels(self, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """(H, W) of a picture of ``size`` (width, height); None without boxes and mask."""
        if self.mask is not None:
            return np.array(self.mask)
        if not self.boxes:
            return None
        out = np.zeros(size[::-1], np.uint8)
        for label, ((left, top), (right, bottom)) in enumerate(self.boxes, 1):
            rows = slice(round(top * size[1]), max(round(top * size[1]) + 1, round(bottom * size[1])))
            out[rows, round(left * size[0]) : max(round(left * size[0]) + 1, round(right * size[0]))] = label
        return out

    def pixels(self, size: tuple[int, int]) -> NDArray[np.float32] | None:
        """(P, 2) points in pixels; None without any."""
        return np.array(self.points, np.float32) * np.array(size, np.float32) if self.points else None

    def key(self) -> tuple[object, ...]:
        """Equal for equal marks."""
        return tuple(self.points), tuple(self.boxes), None if self.mask is None else self.mask.tobytes()


def draw_marks(clip: Clip, marks: Marks) -> Image.Image:
    """The first picture with what is marked in it."""
    size = clip.frames[0].size
    mask, points = marks.labels(size), marks.pixels(size)
    given = None if points is None else np.column_stack([points, np.ones(len(points), np.float32)])
    picture = enlarged(Image.fromarray(overlay(np.array(clip.frames[0]), mask, given, palette_of(None))))
    return marked(picture, marks.corner)


def describe(marks: Marks) -> str:
    """What is marked, in a few words."""
    parts = [counted(len(marks.points), "point")] if marks.points else []
    boxes = counted(len(marks.boxes), "box", "boxes") if marks.boxes else ""
    if marks.mask is not None:
        parts.append(f"a mask in place of {boxes}" if boxes else "a mask")
    elif boxes:
        parts.append(boxes)
    return " and ".join(parts) or "nothing marked"


def hint(marks: Marks) -> str:
    """What is to be clicked on in the first picture now, after a colon; "" where nothing has to be."""
    if marks.corner is not None:
        return "now click on the opposite corner of the box."
    return "" if marks.points or marks.boxes or marks.mask is not None else "click on it to mark what is to be carried."
