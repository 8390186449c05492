"""A synthetic task whose answer is known beforehand: fetch from another cell what a coarse map may have lost.

An image is a fine grid of 16 × 16 positions and its coarse grid of 8 × 8 cells, four children each. Every cell has a
random key, every child adds one of four fixed codes to it, and has a content: a part that it shares with its siblings,
and a detail that the four average to zero. Every position also holds a pointer, the key with code of a child of one of
the image's g landmark cells, never its own cell's. Wanted at that position is the content of the child pointed at.

Contents have variance 1, of which ``shared`` is the siblings' common part. So ``shared`` is exactly the best R² that a
map of averages allows: of the detail it holds nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 8  # of the coarse grid
_SIMPLEX = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])  # sums to zero
_KEY = 24  # signs in a key; a multiple of 3
_CODE_SIZE = 0.5  # of a code against a key it is added to
CODES = ("in-key", "apart", "drawn")


class Scenes(NamedTuple):
    """Images of the task.

    Attributes:
        maps: (B, channels, 16, 16), at each position its own key and code, its content, and its pointer.
        wanted: (B, width, 16, 16), the content pointed at.
        target: (B, 16, 16) int64, the position pointed at, row by row.
    """

    maps: Tensor
    wanted: Tensor
    target: Tensor


@dataclass(frozen=True)
class Retrieval:
    """The task with its settings.

    Args:
        landmarks: g, cells that the pointers of one image point into, from 2 to 64.
        width: Numbers in a content.
        code: "in-key" adds the code of a child to its key, in the very space in which keys are told apart; "apart"
            gives it three channels of its own, which are zero in every average of siblings; "drawn" adds four codes
            that are drawn anew for each cell, so that they lie in no part of that space which a model can leave out.
        shared: Share of the content's variance that siblings have in common, from 0 to 1.

    Raises:
        ValueError: A setting is out of its range.
    """

    landmarks: int
    width: int
    code: str = "in-key"
    shared: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 2 <= self.landmarks <= SIDE * SIDE:
            raise ValueError(f"landmarks must be from 2 to {SIDE * SIDE}, got {self.landmarks}")
        if self.width < 1:
            raise ValueError(f"width must be ≥ 1, got {self.width}")
        if self.code not in CODES:
            raise ValueError(f"code must be one of {list(CODES)}, got {self.code!r}")
        if not 0 <= self.shared <= 1:
            raise ValueError(f"shared must be a share of the variance, from 0 to 1, got {self.shared}")

    @property
    def channels(self) -> int:
        """Of the fine map."""
        return 2 * (_KEY + (_SIMPLEX.shape[1] if self.code == "apart" else 0)) + self.width

    def draw(self, images: int, generator: torch.Generator, side: int = SIDE) -> Scenes:
        """New images of ``side`` × ``side`` cells; equal for equal states of the (CPU) generator."""
        cells = side * side
        key = torch.randint(2, (images, cells, _KEY), generator=generator) * 2.0 - 1
        content = self._content((images, cells), generator)
        cell, child = self._targets((images, cells), generator)
        image = torch.arange(images)[:, None, None]
        own = self._names(key, generator)
        pointer = own[image, cell, child]
        y, x = cell // side * 2 + child // 2, cell % side * 2 + child % 2
        return Scenes(
            maps=_to_map(torch.cat([own, content, pointer], -1), side),
            wanted=_to_map(content[image, cell, child], side),
            target=_to_map((y * 2 * side + x)[..., None], side)[:, 0],
        )

    def _content(self, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """(B, cells, 4, width) of variance 1."""
        common = torch.randn(*size, 1, self.width, generator=generator)
        detail = torch.randn(*size, 4, self.width, generator=generator)
        detail = (detail - detail.mean(2, keepdim=True)) * math.sqrt(4 / 3)
        return math.sqrt(self.shared) * common + math.sqrt(1 - self.shared) * detail

    def _targets(self, size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cell and child that each position points at, both (B, cells, 4)."""
        images, cells = size
        count = min(self.landmarks, cells)
        landmarks = torch.rand(images, cells, generator=generator).argsort(1)[:, :count]
        picked = torch.randint(count, (images, cells, 4), generator=generator)
        image = torch.arange(images)[:, None, None]
        cell, following = landmarks[image, picked], landmarks[image, (picked + 1) % count]
        cell = torch.where(cell == torch.arange(cells)[:, None], following, cell)
        return cell, torch.randint(4, (images, cells, 4), generator=generator)

    def _names(self, key: Tensor, generator: torch.Generator) -> Tensor:
        """Keys (B, cells, 24) with the codes of the four children of each, (B, cells, 4, 24 or more)."""
        size = (*key.shape[:2], 4, -1)
        key, code = key[:, :, None].expand(size), _SIMPLEX.expand(*key.shape[:2], -1, -1)
        if self.code == "apart":
            return torch.cat([key, code], -1)
        if self.code == "in-key":
            return key + _CODE_SIZE * code.repeat(1, 1, 1, _KEY // code.shape[-1])
        drawn = torch.randn(key.shape, generator=generator)
        return key + _CODE_SIZE * (drawn - drawn.mean(2, keepdim=True)) * math.sqrt(4 / 3)


def _to_map(tokens: Tensor, side: int) -> Tensor:
    """(B, cells, 4, c) -> (B, c, 2·side, 2·side)."""
    grid = tokens.reshape(-1, side, side, 2, 2, tokens.shape[-1])
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, tokens.shape[-1], 2 * side, 2 * side)
