"""Labels, maps and points carried from annotated frames through a video, one frame at a time."""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pst.functional.selection import Window
from pst.propagate.borders import Guide, Moved, best_labels, place_of, places
from pst.propagate.carry import carry, with_place
from pst.propagate.features import BackboneFeatures, Features
from pst.propagate.memory import (
    UNKNOWN,
    Annotated,
    Held,
    Last,
    array_of,
    check_alike,
    check_fits,
    check_mask,
    check_points,
    from_state,
    shares_of,
    splat,
    to_state,
)
from pst.propagate.setting import make_setting

_ENLARGED = 2  # times a frame at most, for its features
_AROUND = 2  # fine positions on each side of a peak that a point's place is averaged over


class Points(NamedTuple):
    """Where points are.

    Attributes:
        xy: (P, 2) float32, pixels from the left and the top; (0, 0) is the corner of the first pixel.
        confidence: (P,) float32 from 0 to 1: how much of the attention to a point comes from around its place, times
            how strong that is there, against the annotated frame itself.
    """

    xy: NDArray[np.float32]
    confidence: NDArray[np.float32]


class Propagator:
    """Carries labels, maps or points from annotated frames to the frames that follow. Nothing is trained.

    Give it annotated frames with `add`, and call `step` with one frame after the other: a file's or a live stream's.
    It holds the annotated frames, and the features of a few. One thread at a time may use a Propagator; several may
    share ``features``, which have no state.

    Args:
        features: What frames are matched by; None is `BackboneFeatures()`, which needs the extra "propagate".
        device: Where to compute.
        **setting: Fields of `Setting`: ``topk``, ``size``, ….

    Raises:
        TypeError: There is no such setting.
        ValueError: A setting is out of range.

    Examples:
        >>> propagator = Propagator(features=lambda images: images, size=32)
        >>> frame = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        >>> mask = np.zeros((32, 32), np.uint8)
        >>> mask[8:20, 8:20] = 1
        >>> propagator.add(frame, mask)
        >>> bool((propagator.step(frame) == mask).mean() > 0.95)
        True
    """

    def __init__(self, features: Features | None = None, *, device: str | torch.device = "cpu", **setting: Any) -> None:
        self.setting = make_setting(setting)
        self.device = torch.device(device)
        self.features = BackboneFeatures().to(self.device) if features is None else features
        self.size: tuple[int, int] | None = None
        self._annotated: dict[int, Annotated] = {}
        self._known: OrderedDict[int, Tensor] = OrderedDict()  # features of annotated frames, the last wanted ones
        self._last: deque[Last] = deque(maxlen=self.setting.memory)
        self._labels: list[int] = []
        self._strength: NDArray[np.float32] | None = None
        self._number = -1
        self._confidence: NDArray[np.float32] | None = None
        self._points: Points | None = None
        self._carried: NDArray[np.float32] | None = None

    @property
    def values(self) -> NDArray[np.float32]:
        """(K, H, W): what was carried of ``values`` to the frame of the last `step`."""
        if self._carried is None:
            raise ValueError("there are no values before the first step, or without any: call add(…, values=…) first")
        return self._carried

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
            ValueError: Shapes do not fit, there is nothing to remember, or earlier annotated frames have other things.
        """
        pixels = self._frame(frame)
        size = pixels.shape[0], pixels.shape[1]
        if mask is None and points is None and values is None:
            raise ValueError("add needs a mask, points or values: there is nothing to carry")
        labels = None if mask is None else check_mask(mask, size)
        where = None if points is None else check_points(points, size)
        maps = None if values is None else self._values(values, size)
        features = self._features(pixels)
        fine = features.shape[1], features.shape[2]
        held = Held(
            None if labels is None else shares_of(labels.to(self.device), fine),
            None if maps is None else F.interpolate(maps[None], fine, mode="area")[0],
            where,
        )
        if self._annotated:
            check_alike(held, next(iter(self._annotated.values())).held)
        number = self._number + 1 if index is None else operator.index(index)
        self.size = size
        self._annotated[number] = Annotated(number, pixels, held, labels)
        self._keep(number, features)
        self._labels = sorted({*self._labels, *(held.shares or ())})
        if where is not None and self._strength is None:
            self._strength = self._heat(features, [features], [where]).flatten(1).amax(1).cpu().numpy()
        self._number = number

    def step(self, frame: Any, *, index: int | None = None) -> Any:
        """Carry to the next frame, and remember that.

        Args:
            frame: As in `add`, of the same size.
            index: Number of the frame in its video, if it is not the one after the last: backwards, for instance.

        Returns:
            (H, W) uint8 mask, `UNKNOWN` where no label is above the threshold; without masks ``values`` (K, H, W)
            float32; of points alone None. See `values`, `points` and `confidence` as well.

        Raises:
            TypeError: ``frame`` is of another kind.
            ValueError: No frame is annotated yet, or the size differs.
        """
        if not self._annotated:
            raise ValueError("no frame is annotated: call add(frame, mask) before step")
        pixels = self._frame(frame)
        number = self._number + 1 if index is None else operator.index(index)
        features = self._features(pixels)
        near = sorted(self._annotated.values(), key=lambda a: (abs(a.number - number), a.number))
        near = near[: self.setting.annotated]
        keys = [*(self._features_of(a) for a in near), *(frame.features for frame in self._last)]
        held = [*(a.held for a in near), *(frame.held for frame in self._last)]
        shares, place = self._carry_labels(features, keys, held) if held[0].shares is not None else (None, None)
        new = Held(
            shares,
            self._carry(features, keys, [h.values for h in held]) if held[0].values is not None else None,
            self._carry_points(features, keys, [h.points for h in held]) if held[0].points is not None else None,
        )
        self._last.append(Last(number, features, new))
        self._number = number
        if new.values is not None:
            full = F.interpolate(new.values[None], self.size, mode="bilinear", align_corners=False)[0]
            self._carried = full.cpu().numpy()
        return self._carried if shares is None else self._mask(shares, place, pixels, near[0].mask)

    def state(self) -> dict[str, Tensor]:
        """What the last frames hold, oldest first, by name: for work that goes on after an interruption.

        ``N.number`` () int64 of the N-th; ``N.shares.LABEL`` (h, w), ``N.values`` (K, h, w) and ``N.points`` (P, 2) as
        there are, float32.
        """
        return to_state(list(self._last))

    def restore(self, state: Mapping[str, Tensor], frames: Mapping[int, Any] | Sequence[Any]) -> None:
        """Take the last frames from `state`: what `step` then gives is what it would have given, bit for bit.

        Args:
            state: Of another Propagator with the same setting, features and annotated frames.
            frames: The frames that it names, by number.

        Raises:
            LookupError: ``frames`` lacks one.
            ValueError: No frame is annotated yet, or ``state`` is of another setting, or damaged.
        """
        if not self._annotated:
            raise ValueError("no frame is annotated: call add(frame, mask) before restore, as it was before state")
        self._last.clear()
        for number, held in from_state(state, self.device):
            features = self._features(self._frame(frames[number]))
            check_fits(held, (features.shape[1], features.shape[2]), self._labels)
            check_alike(held, next(iter(self._annotated.values())).held)
            self._last.append(Last(number, features, held))
            self._number = number

    def forget(self) -> None:
        """Forget the last frames, not the annotated ones: before another direction, or after a cut."""
        self._last.clear()

    def features_of(self, frame: Any) -> Tensor:
        """What a frame is matched by, (C, h, w) of unit length with its place beside it; ``frame`` as in `add`."""
        return self._features(self._frame(frame))

    # ------------------------------------------------------------------------------------------------------ frames

    def _frame(self, frame: Any) -> NDArray[np.uint8]:
        pixels = array_of("frame", frame).copy()  # a stream may fill its own memory again
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
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
        """(C, h, w) of unit length, its place in the picture beside it."""
        height, width = pixels.shape[:2]
        factor = min(self.setting.size / max(height, width), _ENLARGED)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        image = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None].float() / 255
        image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=factor < 1)
        found = self.features(image)[0].to(torch.float32)
        if not bool(found.isfinite().all()):
            raise ValueError("the features of a frame hold NaN or infinity: do its network and weights work?")
        return with_place(F.normalize(found, dim=0), self.setting.nearness)

    def _features_of(self, annotated: Annotated) -> Tensor:
        if annotated.number not in self._known:
            self._keep(annotated.number, self._features(annotated.pixels))
        self._known.move_to_end(annotated.number)
        return self._known[annotated.number]

    def _keep(self, number: int, features: Tensor) -> None:
        self._known[number] = features
        while len(self._known) > self.setting.annotated:
            self._known.popitem(last=False)

    # ------------------------------------------------------------------------------------------------- what is carried

    @torch.inference_mode()
    def _carry(self, features: Tensor, keys: Sequence[Tensor], values: Sequence[Any]) -> Tensor:
        setting = self.setting
        return carry(
            features, torch.stack(list(keys)), torch.stack(list(values)), topk=setting.topk, ratio=setting.ratio,
            scale=setting.scale, selection=Window(setting.grid),
        )  # fmt: skip

    @torch.inference_mode()
    def _carry_labels(
        self, features: Tensor, keys: Sequence[Tensor], held: Sequence[Held]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """(h, w) by label; and (2, h, w), the place in the first frame that each position is at, see `Moved`."""
        cells = features.shape[1], features.shape[2]
        none = torch.zeros_like(features[0])
        where = [places(cells, features), *[torch.zeros(3, *cells).to(features)] * (len(held) - 1)]
        shares = [torch.stack([(h.shares or {}).get(label, none) for label in self._labels]) for h in held]
        found = self._carry(features, keys, [torch.cat(both) for both in zip(shares, where, strict=True)])
        return dict(zip(self._labels, found[:-3], strict=True)), place_of(found[-3:])

    @torch.inference_mode()
    def _mask(self, shares: dict[int, Tensor], place: Any, pixels: NDArray[np.uint8], nearest: Any) -> Any:
        """(H, W) uint8; sets the confidence. ``nearest`` is the mask of the nearest annotated frame."""
        image = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1).float() / 255
        guide = Guide(image, (place.shape[1], place.shape[2]))
        mask, best = best_labels(shares, guide, Moved(nearest.to(self.device), place))
        self._confidence = best.cpu().numpy()
        return mask.masked_fill(best < self.setting.threshold, UNKNOWN).cpu().numpy()

    @torch.inference_mode()
    def _carry_points(self, features: Tensor, keys: Sequence[Tensor], held: Sequence[Any]) -> NDArray[np.float32]:
        """(P, 2) places in the frame; sets `points`."""
        height, width = features.shape[1], features.shape[2]
        heat = self._heat(features, keys, held)
        tiny = torch.finfo(heat.dtype).tiny
        peak = heat.flatten(1).argmax(1)
        y, x = (torch.arange(n, device=heat.device) for n in (height, width))
        row, column = peak // width, peak % width
        near = ((y - row[:, None]).abs() <= _AROUND)[:, :, None] & ((x - column[:, None]).abs() <= _AROUND)[:, None]
        around = heat * near
        mass, total = around.sum((1, 2)).clamp_min(tiny), heat.sum((1, 2)).clamp_min(tiny)
        at = torch.stack([(around.sum(1) * (x + 0.5)).sum(1) / mass, (around.sum(2) * (y + 0.5)).sum(1) / mass], 1)
        xy = at.cpu().numpy().astype(np.float32) * self._step(features)
        strength = torch.from_numpy(self._strength).to(heat).clamp_min(tiny)
        sure = (mass / total) * (heat.flatten(1).amax(1) / strength).clamp(max=1)
        self._points = Points(xy, sure.clamp(0, 1).cpu().numpy().astype(np.float32))
        return xy

    def _heat(self, features: Tensor, keys: Sequence[Tensor], points: Sequence[Any]) -> Tensor:
        """(P, h, w): how much of the attention of each position is on each point."""
        step, size = self._step(features), (features.shape[1], features.shape[2])
        return self._carry(features, keys, [splat(p, step, size).to(self.device) for p in points])

    def _step(self, features: Tensor) -> NDArray[np.float32]:
        """Pixels a fine position, in x and y."""
        assert self.size is not None
        return np.array([self.size[1] / features.shape[2], self.size[0] / features.shape[1]], np.float32)

    def _values(self, values: Any, size: tuple[int, int]) -> Tensor:
        maps = torch.as_tensor(values, dtype=torch.float32, device=self.device)
        if maps.ndim != 3 or len(maps) == 0 or tuple(maps.shape[1:]) != size:
            raise ValueError(f"values must be (K, {size[0]}, {size[1]}), K ≥ 1, got shape {tuple(maps.shape)}")
        if not bool(maps.isfinite().all()):
            raise ValueError("values must be finite: put a number in the place of NaN and infinity")
        return maps.detach()
