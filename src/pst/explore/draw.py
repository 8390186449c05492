"""The pictures of the page: what was found, which tokens were selected, where a position looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pst.control import Selection
from pst.data.images import GREY
from pst.explore.networks import NOTHING, Found, Seen
from pst.functional.grid import Size
from pst.visualize import draw_boxes, paint_classes, selection_overlay

Place = tuple[float, float]  # (x, y) of a picture, each from 0 to 1

_WIDTH = 640  # longer side to which smaller pictures are enlarged, about
_REDUCTIONS = (4, 8, 16, 32, 64, 128, 14, 28)  # of the maps of networks
_DIM, _EVEN, _YELLOW = 0.55, 4, np.array([255.0, 225.0, 60.0])


def draw_found(seen: Seen, found: Found) -> Image.Image:
    """What was found over the picture, enlarged."""
    square = seen.square
    if found.mask is not None:
        painted = paint_classes(square, found.mask)
        square = Image.composite(painted, square, Image.fromarray(found.mask != NOTHING))
    scale = _scale(seen.size)
    return _cut(draw_boxes(square, found.boxes, found.tags, found.labels, scale=scale), seen.size, scale)


def draw_tokens(seen: Seen, tokens: Sequence[int], coarse_size: Size, place: Place | None = None) -> Image.Image:
    """The coarse tokens painted over the picture, the first one strongest; and the position that they are of."""
    scale = _scale(seen.size)
    canvas = _times(_covered(seen.square, coarse_size), scale)
    if tokens:
        selection = Selection(torch.tensor(tokens).view(1, 1, -1), coarse_size, coarse_size)
        canvas = selection_overlay(canvas, selection, 0)
    return marked(_cut(canvas, seen.size, scale), place)


def draw_attention(seen: Seen, weights: Tensor, place: Place) -> Image.Image:
    """Weights (Hf, Wf) as yellow over the darkened picture, see `heat`."""
    scale = _scale(seen.size)
    canvas = _times(_covered(seen.square, (weights.shape[0], weights.shape[1])), scale)
    return marked(_cut(heat(canvas, weights), seen.size, scale), place)


def heat(picture: Image.Image, weights: Tensor) -> Image.Image:
    """Weights over a picture that their map covers: n times the even weight is n/(n + 4) yellow, the even a fifth."""
    times = weights * weights.numel()
    values = Image.fromarray((times / (times + _EVEN) * 255).round().to(torch.uint8).numpy())
    share = np.asarray(values.resize(picture.size, Image.Resampling.NEAREST), np.float32)[..., None] / 255
    pixels = np.asarray(picture, np.float32) * _DIM
    return Image.fromarray((pixels * (1 - share) + _YELLOW * share).round().astype(np.uint8))


def enlarged(picture: Image.Image) -> Image.Image:
    """A small picture by the whole factor that the others are enlarged by."""
    return _times(picture, _scale(picture.size))


def marked(picture: Image.Image, place: Place | None) -> Image.Image:
    """A ring around a place of the picture."""
    if place is None:
        return picture
    out = picture.copy()
    draw, radius = ImageDraw.Draw(out), max(5, max(out.size) // 80)
    x, y = place[0] * out.width, place[1] * out.height
    for grown, colour in ((2, (0, 0, 0)), (0, (255, 255, 255))):
        r = radius + grown
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=3)
    return out


def position_of(seen: Seen, place: Place, size: Size) -> tuple[int, int]:
    """Row and column of a map of ``size`` (H, W) at a place of the picture."""
    height, width = (covered(seen.square.width, n) for n in size)
    row = int(place[1] * seen.size[1] / height * size[0])
    column = int(place[0] * seen.size[0] / width * size[1])
    return min(max(row, 0), size[0] - 1), min(max(column, 0), size[1] - 1)


def covered(edge: int, cells: int) -> int:
    """Pixels that the cells along one axis cover, ``edge`` or more: networks fill a picture up to whole cells."""
    if edge % cells == 0 and edge // cells in _REDUCTIONS:
        return edge
    return next((cells * r for r in _REDUCTIONS if -(-edge // r) == cells), edge)


def beside(seen: Seen, tokens: Sequence[int], coarse_size: Size) -> int:
    """How many of the coarse tokens lie in what fills the picture up to a square, which is not shown."""
    height, width = (covered(seen.square.width, n) / n for n in coarse_size)
    places = (divmod(token, coarse_size[1]) for token in tokens)
    return sum(row * height >= seen.size[1] or column * width >= seen.size[0] for row, column in places)


def _covered(square: Image.Image, cells: Size) -> Image.Image:
    """The square, with grey to its right and below it where the map of these cells covers more."""
    height, width = (covered(square.width, n) for n in cells)
    out = Image.new("RGB", (width, height), (GREY, GREY, GREY))
    out.paste(square, (0, 0))
    return out


def _scale(size: tuple[int, int]) -> int:
    return max(1, round(_WIDTH / max(size)))


def _times(picture: Image.Image, scale: int) -> Image.Image:
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)


def _cut(picture: Image.Image, size: tuple[int, int], scale: int) -> Image.Image:
    return picture.crop((0, 0, size[0] * scale, size[1] * scale))
