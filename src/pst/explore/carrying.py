"""Labels marked in the first picture of a clip, carried to the others with k = 0 and with another k."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pst.control import Selection
from pst.explore.clip import Clip
from pst.explore.draw import Place, enlarged, heat, marked
from pst.explore.view import Shown, duration
from pst.functional.grid import block_grid
from pst.functional.selection import Window
from pst.propagate import Features, Propagator, carry
from pst.propagate.masks import palette_of
from pst.propagate.pictures import overlay
from pst.visualize import selection_overlay

EDGE = 480  # longer side of the frames for the features
_SMALLEST = 0.01  # of a box, as a share of the picture's side
Progress = Callable[[int, int], None]


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
            self.points.append(place)
        elif self.corner is None:
            self.corner = place
        else:
            (left, right), (top, bottom) = (sorted(pair) for pair in zip(self.corner, place, strict=True))
            self.corner = None
            if min(right - left, bottom - top) < _SMALLEST:
                raise ValueError("the two corners are too near to each other: click on opposite corners of a box")
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


class Carrying:
    """A clip through which marks are carried with one k, frame after frame, as far as was asked.

    Raises:
        ValueError: Nothing is marked.
    """

    def __init__(self, clip: Clip, marks: Marks, features: Features, topk: int) -> None:
        self.clip, self.seconds = clip, []
        self._propagator = Propagator(features, topk=topk, size=EDGE)
        size = clip.frames[0].size
        mask, points = marks.labels(size), marks.pixels(size)
        if mask is None and points is None:
            raise ValueError("nothing is marked yet: click on the first picture, or drop a mask")
        self._propagator.add(clip.frames[0], mask, points=points)
        given = None if points is None else np.column_stack([points, np.ones(len(points), np.float32)])
        self._found = [(mask, given)]

    def picture(self, index: int, progress: Progress | None = None) -> Image.Image:
        """Frame ``index`` with what was carried to it."""
        while len(self._found) <= index:
            begin = time.perf_counter()
            mask = self._propagator.step(self.clip.frames[len(self._found)])
            self.seconds.append(time.perf_counter() - begin)
            points = self._propagator.points if self._found[0][1] is not None else None
            xy = None if points is None else np.column_stack([points.xy, points.confidence])
            self._found.append((mask, xy))
            if progress is not None:
                progress(len(self._found) - 1, index)
        return enlarged(self._over(index))

    def _over(self, index: int) -> Image.Image:
        return Image.fromarray(overlay(np.array(self.clip.frames[index]), *self._found[index], palette_of(None)))

    def caption(self, topk: int) -> str:
        """What a step takes."""
        if not self.seconds:
            return f"k = {topk}."
        took, of = duration(statistics.median(self.seconds)), len(self.seconds)
        return f"k = {topk}: {took} a frame, features included (median of {of}, measured here just now)."

    def look(self, index: int, place: Place) -> tuple[Tensor, list[int], tuple[int, int]]:
        """Where a place of frame ``index`` looks in the first: weights (Hf, Wf), selected tokens, their map's size."""
        setting = self._propagator.setting
        here, there = (self._propagator.features_of(self.clip.frames[i]) for i in (index, 0))
        size = here.shape[1], here.shape[2]
        position = min(int(place[1] * size[0]), size[0] - 1), min(int(place[0] * size[1]), size[1] - 1)
        selected: list[Tensor] = []
        ones = torch.ones(1, 1, *size, requires_grad=True)
        with torch.enable_grad():
            out = carry(
                here, there[None], ones, topk=setting.topk, ratio=setting.ratio, scale=setting.scale,
                selection=Window(setting.grid), observer=selected.append,
            )  # fmt: skip
            out[0, position[0], position[1]].backward()
        assert ones.grad is not None
        coarse = -(-size[0] // setting.ratio), -(-size[1] // setting.ratio)
        rows, columns = block_grid(setting.grid, size)
        block = position[0] * rows // size[0] * columns + position[1] * columns // size[1]
        tokens = [] if not selected else [t for t in selected[0][0, 0, block].tolist() if t >= 0]
        return ones.grad[0, 0], tokens, coarse


def draw_marks(clip: Clip, marks: Marks) -> Image.Image:
    """The first picture with what is marked in it."""
    size = clip.frames[0].size
    mask, points = marks.labels(size), marks.pixels(size)
    given = None if points is None else np.column_stack([points, np.ones(len(points), np.float32)])
    picture = enlarged(Image.fromarray(overlay(np.array(clip.frames[0]), mask, given, palette_of(None))))
    return marked(picture, marks.corner)


def show_carried(
    coarse: Carrying,
    fine: Carrying,
    topk: int,
    marks: Marks,
    index: int,
    place: Place | None,
    tell: Progress | None,
) -> Shown:
    """Frame ``index`` with k = 0 and ``topk``, the marks, and where a place of the frame looks in the first one."""
    pictures = [c.picture(index, tell) for c in (coarse, fine)]
    captions = [c.caption(k) for c, k in ((coarse, 0), (fine, topk))]
    first = draw_marks(coarse.clip, marks)
    if place is None:
        said = "Click on a picture above to see where that position looks in the first one."
        return Shown(*pictures, first, None, (*captions, f"First picture: {_marked(marks)}.", said))
    weights, tokens, cells = fine.look(index, place)
    if tokens:
        first = selection_overlay(first, Selection(torch.tensor(tokens).view(1, 1, -1), cells, cells), 0)
    chosen = f"First picture: {_marked(marks)}; {len(tokens)} of {cells[0] * cells[1]} coarse positions selected."
    heated = heat(enlarged(coarse.clip.frames[0]), weights)
    said = "Attention of the marked position in the first picture."
    return Shown(*(marked(p, place) for p in pictures), first, heated, (*captions, chosen, said))


def _marked(marks: Marks) -> str:
    parts = [f"{len(marks.points)} point{'s' * (len(marks.points) != 1)}"] if marks.points else []
    if marks.mask is not None:
        parts.append("a mask")
    elif marks.boxes:
        parts.append(f"{len(marks.boxes)} box{'es' * (len(marks.boxes) != 1)}")
    return " and ".join(parts) or "nothing marked"
