"""Labels, maps and points carried from annotated frames through a video, one frame at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pst.functional.selection import Window
from pst.propagate.carry import carry, with_place
from pst.propagate.features import BackboneFeatures, Features

UNKNOWN = 255
"""Mask value of pixels without a label."""

MOST = 255  # labels: what the values of an 8-bit mask tell apart beside `UNKNOWN`
_AROUND = 2  # fine positions on each side of a peak that a point's place is averaged over


class Points(NamedTuple):
    """Where points are.

    Attributes:
        xy: (P, 2) float32, pixels from the left and the top; (0, 0) is the corner of the first pixel.
        confidence: (P,) float32 from 0 to 1: how much of the attention to a point comes from around its place.
    """

    xy: NDArray[np.float32]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """How a `Propagator` works; chosen on pairs of frames of CamVid's training part, see docs/propagate.md.

    Attributes:
        topk: k, coarse positions whose children each block of queries attends; 0 is coarse attention alone.
        size: Longer side that frames are resized to for the features; larger is finer and slower.
        ratio: Fine positions per coarse one, along each axis.
        grid: Blocks of queries along each axis, each with coarse positions of its own.
        scale: Factor on the cosines of features.
        nearness: How much near places are preferred, see `pst.propagate.with_place`.
        memory: Last frames that are remembered beside annotated ones.
        annotated: Annotated frames that are looked at, the nearest in time.
        threshold: Pixels whose best label has less of the attention become `UNKNOWN`.

    Raises:
        ValueError: A number is out of range.
    """

    topk: int = 8
    size: int = 960
    ratio: int = 8
    grid: int = 24
    scale: float = 60.0
    nearness: float = 0.3
    memory: int = 1
    annotated: int = 3
    threshold: float = 0.0

    def __post_init__(self) -> None:
        least = {"topk": 0, "size": 32, "ratio": 1, "grid": 1, "scale": 0, "nearness": 0, "memory": 0, "annotated": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= low:
                raise ValueError(f"{name} must be a number ≥ {low}, got {value!r}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, got {self.threshold!r}")


class _Memory(NamedTuple):
    """One remembered frame: its number, features (C, h, w), and what it holds."""

    index: int
    features: Tensor
    mask: Tensor | None  # (H, W) uint8
    values: Tensor | None  # (K, h, w)
    points: NDArray[np.float32] | None  # (P, 2)


class Propagator:
    """Carries labels, maps or points from annotated frames to the frames that follow. Nothing is trained.

    Give it annotated frames with `add`, and call `step` with one frame after the other: a file's or a live stream's.
    Memory is that of the annotated frames and the last few. One thread at a time may use a Propagator; several may
    share ``features``, which have no state.

    Args:
        features: What frames are matched by; None is `BackboneFeatures()`, which needs the extra "propagate".
        device: Where to compute.
        **setting: Fields of `Setting`: ``topk``, ``size``, ….

    Raises:
        TypeError: There is no such setting.
        ValueError: A setting is out of range.

    Example:
        >>> propagator = Propagator(features=lambda images: images, size=32)
        >>> frame = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        >>> mask = np.zeros((32, 32), np.uint8)
        >>> mask[8:20, 8:20] = 1
        >>> propagator.add(frame, mask)
        >>> bool((propagator.step(frame) == mask).mean() > 0.95)
        True
    """

    def __init__(self, features: Features | None = None, *, device: str | torch.device = "cpu", **setting: Any) -> None:
        self.setting = Setting(**setting)
        self.device = torch.device(device)
        self.features = BackboneFeatures().to(self.device) if features is None else features
        self.size: tuple[int, int] | None = None
        self._annotated: dict[int, _Memory] = {}
        self._last: deque[_Memory] = deque(maxlen=self.setting.memory)
        self._labels: list[int] = []
        self._index = -1
        self._confidence: NDArray[np.float32] | None = None
        self._points: Points | None = None

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(H, W): the share of attention that the label of each pixel of the last `step` got."""
        if self._confidence is None:
            raise ValueError("there is no confidence before the first step, or without masks: call add and step first")
        return self._confidence

    @property
    def points(self) -> Points:
        """Where the points are in the last frame."""
        if self._points is None:
            raise ValueError("there are no points before the first step, or without any: call add(…, points=…) first")
        return self._points

    def add(
        self, frame: Any, mask: Any = None, *, points: Any = None, values: Any = None, index: int | None = None
    ) -> None:
        """Remember an annotated frame.

        Args:
            frame: (H, W, 3) uint8 RGB: array, tensor or PIL image. All frames have one size.
            mask: (H, W) integers, 0 to 254 labels, 255 unlabelled: array, tensor, or PIL image of mode "P", "L" or "I".
            points: (P, 2) pixels (x, y); the same points in every annotated frame.
            values: Any map, (K, H, W) float, of as many channels in every annotated frame.
            index: Number of the frame in its video; None is the one after the last.

        Raises:
            TypeError: ``frame`` or ``mask`` is of another kind.
            ValueError: Shapes do not fit, or there is nothing to remember.
        """
        pixels = self._frame(frame)
        height, width = pixels.shape[:2]
        if mask is None and points is None and values is None:
            raise ValueError("add needs a mask, points or values: there is nothing to carry")
        labels = None if mask is None else _mask(mask, (height, width))
        where = None if points is None else _points(points)
        if where is not None and self._annotated:
            known = next(iter(self._annotated.values())).points
            if known is None or len(known) != len(where):
                wanted = 0 if known is None else len(known)
                raise ValueError(f"every annotated frame has the same points: wanted {wanted}, got {len(where)}")
        if self._annotated and (where is None) != (next(iter(self._annotated.values())).points is None):
            raise ValueError("either every annotated frame has points, or none")
        index = self._index + 1 if index is None else index
        features = self._features(pixels)
        maps = None if values is None else self._values(values, (height, width), features)
        self.size = (height, width)
        self._annotated[index] = _Memory(index, features, labels, maps, where)
        if labels is not None:
            self._labels = sorted({*self._labels, *(int(v) for v in labels.unique().tolist() if v != UNKNOWN)})
        self._index = index

    def step(self, frame: Any, *, index: int | None = None) -> Any:
        """Carry to the next frame, and remember that.

        Args:
            frame: As in `add`, of the same size.
            index: Number of the frame in its video, if it is not the one after the last: backwards, for instance.

        Returns:
            (H, W) uint8 mask, `UNKNOWN` where no label is above the threshold; of ``values`` (K, H, W) float32; of
            points alone None. See `points` and `confidence` as well.

        Raises:
            TypeError: ``frame`` is of another kind.
            ValueError: No frame is annotated yet, or the size differs.
        """
        if not self._annotated:
            raise ValueError("no frame is annotated: call add(frame, mask) before step")
        pixels = self._frame(frame)
        index = self._index + 1 if index is None else index
        features = self._features(pixels)
        near = sorted(self._annotated.values(), key=lambda m: (abs(m.index - index), m.index))
        memories = [*near[: self.setting.annotated], *self._last]
        first = near[0]
        mask = None if first.mask is None else self._carry_labels(features, memories)
        values = None if first.values is None else self._carry(features, memories, [m.values for m in memories])
        where = None if first.points is None else self._carry_points(features, memories)
        self._last.append(_Memory(index, features, mask, values, where))
        self._index = index
        if mask is not None:
            return mask.cpu().numpy()
        if values is not None:
            return F.interpolate(values[None], self.size, mode="bilinear", align_corners=False)[0].cpu().numpy()
        return None

    def remember(self, frame: Any, mask: Any = None, *, points: Any = None, index: int) -> None:
        """Take a frame as one of the last, as if `step` had given this: for work that goes on after an interruption."""
        pixels = self._frame(frame)
        labels = None if mask is None else _mask(mask, pixels.shape[:2])
        where = None if points is None else _points(points)
        self._last.append(_Memory(index, self._features(pixels), labels, None, where))
        self._index = index

    def forget(self) -> None:
        """Forget the last frames, not the annotated ones: before another direction, or after a cut."""
        self._last.clear()

    # ------------------------------------------------------------------------------------------------------ frames

    def _frame(self, frame: Any) -> NDArray[np.uint8]:
        pixels = frame.cpu().numpy() if isinstance(frame, Tensor) else np.array(frame)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"a frame must be (height, width, 3) RGB, got shape {pixels.shape}")
        if pixels.dtype != np.uint8:
            raise TypeError(f"a frame must be uint8, got {pixels.dtype}: multiply by 255 and round")
        if self.size is not None and pixels.shape[:2] != self.size:
            raise ValueError(
                f"every frame must have the size of the first, {self.size[1]}×{self.size[0]}, got "
                f"{pixels.shape[1]}×{pixels.shape[0]}: resize it"
            )
        return pixels

    @torch.inference_mode()
    def _features(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(C, h, w) of unit length, its place in the picture included."""
        height, width = pixels.shape[:2]
        factor = self.setting.size / max(height, width)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        image = torch.from_numpy(np.array(pixels)).to(self.device).permute(2, 0, 1)[None].float() / 255
        image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=factor < 1)
        return with_place(F.normalize(self.features(image)[0], dim=0), self.setting.nearness)

    # ------------------------------------------------------------------------------------------------- what is carried

    @torch.inference_mode()
    def _carry(self, features: Tensor, memories: list[_Memory], values: list[Any]) -> Tensor:
        keys = torch.stack([m.features for m in memories])
        setting = self.setting
        return carry(
            features, keys, torch.stack(values), topk=setting.topk, ratio=setting.ratio, scale=setting.scale,
            selection=Window(setting.grid),
        )  # fmt: skip

    @torch.inference_mode()
    def _carry_labels(self, features: Tensor, memories: list[_Memory]) -> Tensor:
        """(H, W) uint8 mask; sets the confidence."""
        assert self.size is not None
        size = features.shape[1], features.shape[2]
        shares = self._carry(features, memories, [self._one_hot(m.mask, size) for m in memories])
        best = torch.zeros(self.size, device=self.device)
        mask = torch.full(self.size, UNKNOWN, dtype=torch.uint8, device=self.device)
        for label, share in zip(self._labels, shares, strict=True):  # one by one: all would be (K, H, W)
            full = F.interpolate(share[None, None], self.size, mode="bilinear", align_corners=False)[0, 0]
            higher = full > best
            best, mask = torch.where(higher, full, best), mask.masked_fill(higher, label)
        self._confidence = best.cpu().numpy()
        return mask.masked_fill(best < self.setting.threshold, UNKNOWN)

    def _one_hot(self, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
        """(K, h, w): the share of each label in each fine position; unlabelled pixels have none."""
        assert mask is not None
        mask = mask.to(self.device)
        return torch.stack(
            [F.interpolate((mask == v).float()[None, None], size, mode="area")[0, 0] for v in self._labels]
        )

    @torch.inference_mode()
    def _carry_points(self, features: Tensor, memories: list[_Memory]) -> NDArray[np.float32]:
        """(P, 2) places in the frame; sets `points`."""
        assert self.size is not None
        height, width = features.shape[1], features.shape[2]
        step = np.array([self.size[1] / width, self.size[0] / height], np.float32)
        heat = self._carry(features, memories, [_splat(m.points, step, (height, width)) for m in memories])
        peak = heat.flatten(1).argmax(1)
        y, x = (torch.arange(n, device=heat.device) for n in (height, width))
        row, column = peak // width, peak % width
        near = ((y - row[:, None]).abs() <= _AROUND)[:, :, None] & ((x - column[:, None]).abs() <= _AROUND)[:, None]
        total = heat.sum((1, 2)).clamp_min(torch.finfo(heat.dtype).tiny)
        around = heat * near
        mass = around.sum((1, 2)).clamp_min(torch.finfo(heat.dtype).tiny)
        at = torch.stack([(around.sum(1) * (x + 0.5)).sum(1) / mass, (around.sum(2) * (y + 0.5)).sum(1) / mass], 1)
        xy = at.cpu().numpy().astype(np.float32) * step
        self._points = Points(xy, (mass / total).clamp(0, 1).cpu().numpy().astype(np.float32))
        return xy

    def _values(self, values: Any, size: tuple[int, int], features: Tensor) -> Tensor:
        maps = torch.as_tensor(values, dtype=torch.float32, device=self.device)
        if maps.ndim != 3 or tuple(maps.shape[1:]) != size:
            raise ValueError(f"values must be (K, {size[0]}, {size[1]}), got shape {tuple(maps.shape)}")
        return F.interpolate(maps[None], features.shape[1:], mode="area")[0]


def _mask(mask: Any, size: tuple[int, ...]) -> Tensor:
    """(H, W) uint8."""
    array = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"a mask must be (height, width) integers, got {array.dtype} of shape {array.shape}")
    if array.shape != tuple(size):
        raise ValueError(
            f"the mask is {array.shape[1]}×{array.shape[0]}, its frame {size[1]}×{size[0]}: make it of the frame's size"
        )
    if array.size and (array.min() < 0 or array.max() > UNKNOWN):
        raise ValueError(
            f"a mask holds labels from 0 to {UNKNOWN - 1}, and {UNKNOWN}, got {array.min()} to {array.max()}"
        )
    return torch.from_numpy(array.astype(np.uint8))


def _points(points: Any) -> NDArray[np.float32]:
    where = np.asarray(points, np.float32)
    if where.ndim != 2 or where.shape[1] != 2 or not np.isfinite(where).all():
        raise ValueError(f"points must be (P, 2) finite pixels (x, y), got shape {where.shape}")
    return where


def _splat(points: NDArray[np.float32] | None, step: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """(P, h, w): each point shared by the four fine positions around it."""
    assert points is not None
    at = torch.from_numpy(points / step - 0.5)
    y, x = (torch.arange(n, dtype=torch.float32) for n in size)
    rows = (1 - (y - at[:, 1:].clamp(0, size[0] - 1)).abs()).clamp_min(0)
    columns = (1 - (x - at[:, :1].clamp(0, size[1] - 1)).abs()).clamp_min(0)
    return rows[:, :, None] * columns[:, None]
