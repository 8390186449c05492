"""Marks of the first picture carried through a clip, and where a position of another picture looks in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pst.control import Selection
from pst.explore.clip import Clip
from pst.explore.draw import Place, enlarged, heat, marked
from pst.explore.marks import Marks, describe, draw_marks, hint
from pst.explore.view import PINK, Shown, duration, runs_of
from pst.functional.grid import block_grid
from pst.functional.selection import Window
from pst.propagate import Features, Propagator, carry
from pst.propagate.masks import palette_of
from pst.propagate.pictures import overlay
from pst.visualize import selection_overlay

EDGE = 480  # longer side of the frames for the features
Progress = Callable[[int, int], None]


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

    @cached_property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of coarse positions of a frame; the same for every k."""
        ratio = self._propagator.setting.ratio
        height, width = self._propagator.features_of(self.clip.frames[0]).shape[1:]
        return -(-height // ratio), -(-width // ratio)

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
        return f"k = {topk}: {took} a frame, features included ({runs_of(of)}, measured here just now)."

    def look(self, index: int, place: Place) -> tuple[Tensor, list[int]]:
        """Where a place of frame ``index`` looks in the first: weights (Hf, Wf), and selected tokens of `cells`."""
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
        rows, columns = block_grid(setting.grid, size)
        block = position[0] * rows // size[0] * columns + position[1] * columns // size[1]
        tokens = [] if not selected else [t for t in selected[0][0, 0, block].tolist() if t >= 0]
        return ones.grad[0, 0], tokens


def show_unmarked(clip: Clip, marks: Marks, index: int) -> Shown:
    """Frame ``index`` as it is, and where to click, while nothing is marked that could be carried to it."""
    frame, said = enlarged(clip.frames[index]), "Nothing to carry yet: mark it in the first picture, below."
    return Shown(frame, frame, draw_marks(clip, marks), None, (said, said, f"First picture: {hint(marks)}", ""))


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
    with_0, with_k = (c.picture(index, tell) for c in (coarse, fine))
    said_0, said_k = coarse.caption(0), fine.caption(topk)
    first, there, then = draw_marks(coarse.clip, marks), f"First picture: {describe(marks)}", hint(marks).capitalize()
    if place is None:
        said = "Click on a picture above to see where that position looks in the first one."
        return Shown(with_0, with_k, first, None, (said_0, said_k, f"{there}. {then}".strip(), said))
    (weights, tokens), cells = fine.look(index, place), coarse.cells
    if tokens:
        first = selection_overlay(first, Selection(torch.tensor(tokens).view(1, 1, -1), cells, cells), 0)
    chosen = f"{there}; {len(tokens)} of {cells[0] * cells[1]} coarse positions selected."
    heated = heat(enlarged(coarse.clip.frames[0]), weights)
    said = "Attention of the position that was clicked on, in the first picture."
    captions = (said_0, said_k, " ".join(filter(None, (chosen, PINK if tokens else "", then))), said)
    return Shown(marked(with_0, place), marked(with_k, place), first, heated, captions)
