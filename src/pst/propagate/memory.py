"""What a `Propagator` remembers of a frame, and the forms in which it is carried."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

UNKNOWN = 255
"""Mask value of pixels without a label."""

MOST_POINTS = 4096
"""More would be heat maps of many gigabytes."""

_NAME = re.compile(r"\d{1,3}\.(number|values|points|shares\.\d{1,3})")


class Held(NamedTuple):
    """What stands in one frame, at the resolution of the features.

    Attributes:
        shares: Of each label in each position, (h, w) by label; None without masks.
        values: (K, h, w), or None.
        points: (P, 2) pixels, or None.
    """

    shares: dict[int, Tensor] | None
    values: Tensor | None
    points: NDArray[np.float32] | None

    def kinds(self) -> tuple[str, ...]:
        """Of what there is something, in words."""
        return tuple(name for name, t in zip(("a mask", "values", "points"), self, strict=True) if t is not None)


class Last(NamedTuple):
    """A frame of the last few: its number, features (C, h, w), and what it holds."""

    number: int
    features: Tensor
    held: Held


class Annotated(NamedTuple):
    """An annotated frame.

    Attributes:
        number: Its own.
        pixels: (H, W, 3), whose features are made when they are wanted.
        held: What it holds.
        mask: (H, W) uint8 as it was given, or None.
    """

    number: int
    pixels: NDArray[np.uint8]
    held: Held
    mask: Tensor | None


def check_alike(held: Held, first: Held) -> None:
    """Raise ValueError unless two annotated frames hold the same kinds of things, as many values and points."""
    if held.kinds() != first.kinds():
        raise ValueError(
            f"every annotated frame must have the same: the first has {' and '.join(first.kinds())}, this one "
            f"{' and '.join(held.kinds())}"
        )
    for what, mine, wanted in (
        ("channels of values", held.values, first.values),
        ("points", held.points, first.points),
    ):
        if mine is not None and wanted is not None and len(mine) != len(wanted):
            raise ValueError(f"every annotated frame must have as many {what}: wanted {len(wanted)}, got {len(mine)}")


def check_fits(held: Held, size: tuple[int, int], labels: list[int]) -> None:
    """Raise ValueError unless what was read from a file can be of features of this (h, w), with these labels."""
    shares = [] if held.shares is None else list(held.shares.values())
    maps = [*shares, *([] if held.values is None else list(held.values))]
    numbers = [*maps, *([] if held.points is None else [torch.from_numpy(held.points)])]
    fits = all(t.dtype == torch.float32 and bool(t.isfinite().all()) for t in numbers)
    fits = fits and all(tuple(t.shape) == size for t in maps)
    fits = fits and all(bool(((t >= -1e-3) & (t <= 1 + 1e-3)).all()) for t in shares)
    fits = fits and (held.shares is None or set(held.shares) <= set(labels))
    if not fits or (held.points is not None and held.points.shape[1:] != (2,)):
        raise ValueError(f"the state of the last frames is damaged, or of another run than one of {size[0]}×{size[1]}")


def shares_of(mask: Tensor, size: tuple[int, int]) -> dict[int, Tensor]:
    """(h, w) by label: its share of each fine position of a (H, W) mask; unlabelled pixels have none.

    Raises:
        ValueError: There is no label in it.
    """
    labels = [int(v) for v in mask.unique().tolist() if v != UNKNOWN]
    if not labels:
        raise ValueError(f"the mask has no label: every pixel is {UNKNOWN}, unlabelled")
    return {v: F.interpolate((mask == v).float()[None, None], size, mode="area")[0, 0] for v in labels}


def splat(points: NDArray[np.float32], step: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """(P, h, w): each point shared by the four fine positions around it; ``step`` is pixels a position, in x and y."""
    at = torch.from_numpy(points / step - 0.5)
    y, x = (torch.arange(n, dtype=torch.float32) for n in size)
    rows = (1 - (y - at[:, 1:].clamp(0, size[0] - 1)).abs()).clamp_min(0)
    columns = (1 - (x - at[:, :1].clamp(0, size[1] - 1)).abs()).clamp_min(0)
    return rows[:, :, None] * columns[:, None]


def to_state(last: list[Last]) -> dict[str, Tensor]:
    """What the last frames hold, oldest first; the inverse of `from_state` but for the features."""
    out: dict[str, Tensor] = {}
    for n, frame in enumerate(last):
        shares, values, points = frame.held
        out[f"{n}.number"] = torch.tensor(frame.number)
        out |= {f"{n}.shares.{label}": share.cpu().contiguous() for label, share in (shares or {}).items()}
        out |= {} if values is None else {f"{n}.values": values.cpu().contiguous()}
        out |= {} if points is None else {f"{n}.points": torch.from_numpy(np.ascontiguousarray(points))}
    return out


def from_state(state: Mapping[str, Tensor], device: torch.device) -> list[tuple[int, Held]]:
    """Numbers of the last frames and what they hold.

    Raises:
        ValueError: A name is none of `to_state`'s, or a number is missing.
    """
    found = []
    if unknown := [name for name in state if not _NAME.fullmatch(name)]:
        raise ValueError(f"the state of the last frames is damaged: there is no {unknown[0][:40]!r} in one")
    for n in range(len({name.partition(".")[0] for name in state})):
        if f"{n}.number" not in state or state[f"{n}.number"].numel() != 1:
            raise ValueError("the state of the last frames is damaged: a frame has no number")
        own = f"{n}.shares."
        shares = {int(k.removeprefix(own)): t.to(device) for k, t in state.items() if k.startswith(own)}
        values, points = state.get(f"{n}.values"), state.get(f"{n}.points")
        held = Held(
            shares or None, None if values is None else values.to(device), None if points is None else points.numpy()
        )
        found.append((int(state[f"{n}.number"]), held))
    return found


def array_of(name: str, given: Any) -> NDArray[Any]:
    """What a frame or mask was given as, as an array; raise TypeError where it is the name of a file."""
    if isinstance(given, (str, bytes, os.PathLike)):
        shown = os.fsdecode(given)[:80]
        raise TypeError(f"a {name} must be pixels, got the name {shown!r}: open it first, as with PIL.Image.open")
    return given.cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)


def check_mask(mask: Any, size: tuple[int, ...]) -> Tensor:
    """(H, W) uint8; raise TypeError or ValueError unless it is one of the frame's size."""
    array = array_of("mask", mask)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"a mask must be (height, width) integers, got {array.dtype} of shape {array.shape}: make it so, e.g. uint8"
        )
    if array.shape != tuple(size):
        raise ValueError(
            f"the mask is {array.shape[1]}×{array.shape[0]}, its frame {size[1]}×{size[0]}: make it of the frame's size"
        )
    if array.size and (array.min() < 0 or array.max() > UNKNOWN):
        raise ValueError(
            f"a mask holds labels from 0 to {UNKNOWN - 1}, and {UNKNOWN}, got {array.min()} to {array.max()}"
        )
    return torch.from_numpy(array.astype(np.uint8))


def check_points(points: Any, size: tuple[int, int]) -> NDArray[np.float32]:
    """(P, 2) float32; raise ValueError unless they are places in a picture of this (height, width)."""
    where = np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, np.float32)
    if where.ndim != 2 or where.shape[1] != 2 or not 0 < len(where) <= MOST_POINTS:
        raise ValueError(f"points must be (P, 2) pixels (x, y), P from 1 to {MOST_POINTS}, got shape {where.shape}")
    inside = (where >= 0) & (where <= np.array(size[::-1], np.float32))
    if not inside.all():
        wrong = where[~inside.all(1)][0].tolist()
        raise ValueError(f"a point must be in the picture of {size[1]}×{size[0]} pixels, got (x, y) = {tuple(wrong)}")
    return where
