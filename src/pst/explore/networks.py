"""What the explorer needs of a model, whatever adapter built it: a square picture in, and what was found in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pst.control.layers import find_attention, inner_model
from pst.data.images import fitted, letterbox
from pst.io.names import counted

SCORE = 0.3  # least of a box
NOTHING = 255  # in a mask: of no class
_MULTIPLE, _LARGEST = 32, 1280  # of the sides of squares
_BEST = 5  # classes of a picture that are named


class Seen(NamedTuple):
    """A picture as a network gets it.

    Attributes:
        pixels: (C, S, S) uint8, what the network is given.
        square: RGB picture of S × S pixels that shows them.
        size: (width, height) of the part of it, from the left upper corner, that is the picture; grey fills the rest.
    """

    pixels: Tensor
    square: Image.Image
    size: tuple[int, int]


class Found(NamedTuple):
    """What a network found, in pixels of `Seen.square`.

    Attributes:
        text: One line.
        boxes: n of (left, top, right, bottom); or points (x, y, x, y) at which classes of the mask are named.
        tags: n texts.
        labels: n class indices.
        mask: (S, S) uint8 class indices, `NOTHING` where there is none; or None.
    """

    text: str
    boxes: Sequence[Sequence[float]] = ()
    tags: Sequence[str] = ()
    labels: Sequence[int] = ()
    mask: NDArray[np.uint8] | None = None


class Network(ABC):
    """A model with PST layers.

    Args:
        model: What `pst.control` takes: a Module, or a host's object around one.
        edge: S, side in pixels of the square pictures that it is given.
        classes: Names, by index; an index beyond them is called "class N".
        channels: Of its pictures.

    Raises:
        ValueError: It has no PST layer, or its pictures can be neither colour nor grey.
    """

    def __init__(self, model: Any, edge: int, classes: Sequence[str] = (), channels: int = 3) -> None:
        if channels not in (1, 3):
            raise ValueError(f"this model takes pictures of {channels} channels: the page shows colour and grey alone")
        if not find_attention(model):
            raise ValueError(f"this {type(model).__name__} has no PST layer: there is nothing to explore")
        self.model, self.edge, self.classes, self.channels = model, edge, classes, channels
        self.module: nn.Module = inner_model(model).eval()

    def see(self, image: Image.Image) -> Seen:
        """An RGB picture as the network gets it: its longer side is S, and grey fills the rest."""
        pixels = letterbox(to_tensor(image, self.channels), self.edge)
        height, width = fitted(image.height, image.width, self.edge)
        return Seen(pixels, _picture(pixels), (width, height))

    @abstractmethod
    def forward(self, seen: Seen) -> Any:
        """One pass of the network alone, without what comes before and after; what times and recordings are of."""

    @abstractmethod
    def find(self, seen: Seen) -> Found:
        """What the model finds, with its settings as they are."""

    def name_of(self, label: int) -> str:
        """Of a class."""
        return self.classes[label] if 0 <= label < len(self.classes) else f"class {label}"

    def boxes(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Found:
        """The boxes (n, 4) of at least `SCORE`; where there is none, the highest score is named."""
        keep = scores >= SCORE
        kept = labels[keep].long().tolist()
        tags = [f"{self.name_of(i)} {score:.2f}" for i, score in zip(kept, scores[keep].tolist(), strict=True)]
        text = f"{counted(len(kept), 'object')} of a score of at least {SCORE}"
        if not kept and len(scores):
            text += f"; the highest is {float(scores.max()):.2g}"
        return Found(text, boxes[keep].float().tolist(), tags, kept)

    def shares(self, mask: Tensor, size: tuple[int, int]) -> Found:
        """The class of each pixel, (S, S); ``size`` is that of the picture in it."""
        shown = mask[: size[1], : size[0]].flatten().bincount() / (size[0] * size[1])
        best = shown.argsort(descending=True)[:_BEST].tolist()
        best = [i for i in best if shown[i] > 0]
        text = ", ".join(f"{self.name_of(i)} {shown[i]:.0%}" for i in best)
        colours = mask.to(torch.uint8).numpy()
        points = [2 * _middle(colours[: size[1], : size[0]] == i) for i in best]
        return Found(text, points, [self.name_of(i) for i in best], best, colours)

    def scores(self, scores: Tensor) -> Found:
        """The best classes of the picture, of (classes) that sum to one."""
        best = scores.argsort(descending=True, stable=True)[:_BEST].tolist()
        return Found(", ".join(f"{self.name_of(i)} {scores[i]:.2f}" for i in best))


def _middle(region: NDArray[np.bool_]) -> tuple[float, float]:
    """The pixel (x, y) of a region that is nearest to its centre of gravity."""
    places = np.argwhere(region)
    row, column = places[((places - places.mean(0)) ** 2).sum(1).argmin()].tolist()
    return column, row


def centred(image: Tensor, edge: int) -> Seen:
    """The middle (C, S, S) of a square picture (C, T, T), all of it picture."""
    first = (image.shape[-1] - edge) // 2
    pixels = image[:, first : first + edge, first : first + edge]
    return Seen(pixels, _picture(pixels), (edge, edge))


def square_of(edge: int) -> int:
    """The nearest side that every stride divides."""
    return min(_LARGEST, max(_MULTIPLE, round(edge / _MULTIPLE) * _MULTIPLE))


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """(channels, H, W) uint8."""
    array = np.array(image.convert("RGB" if channels == 3 else "L"))
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
