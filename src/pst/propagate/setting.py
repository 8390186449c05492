"""How frames are matched, and how much of the past is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pst.io.names import nearest

_MOST = 10**6  # of a setting that is an integer


def make_setting(options: Mapping[str, Any]) -> Setting:
    """A `Setting` of some of its fields.

    Raises:
        TypeError: There is no field of a name.
        ValueError: See `Setting`.
    """
    known = [field.name for field in fields(Setting)]
    for name in options:
        if name not in known:
            near = nearest(name, known, 0.6)
            raise TypeError(f"propagation has no setting {name!r}{near or ': it has ' + ', '.join(known)}")
    return Setting(**options)


@dataclass(frozen=True)
class Setting:
    """How a `Propagator` works; chosen on pairs of frames of CamVid's training part, see docs/propagate.md.

    Attributes:
        topk: k, coarse positions whose children each block of queries attends; 0 is coarse attention alone.
        size: Longer side that frames are resized to for the features, but at most to twice their own; larger is finer
            and slower.
        ratio: Fine positions per coarse one, along each axis.
        grid: Blocks of queries along each axis, each with coarse positions of its own.
        scale: Factor on the cosines of features.
        nearness: How much near places are preferred, see `pst.propagate.with_place`.
        memory: Last frames that are remembered beside annotated ones, each with the shares of attention that its
            labels got: what was unsure stays unsure.
        annotated: Annotated frames that are looked at, the nearest in time.
        threshold: Pixels whose best label has less of the attention become `UNKNOWN`.

    Raises:
        ValueError: A number is out of range.

    Examples:
        >>> Setting(size=480).topk
        8
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
        for name, low in {"topk": 0, "size": 32, "ratio": 1, "grid": 1, "memory": 0, "annotated": 1}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= _MOST:
                raise ValueError(f"{name} must be an integer from {low} to {_MOST:,}, got {value!r}")
            object.__setattr__(self, name, int(value))
        for name, high in {"scale": 1e6, "nearness": 1e3, "threshold": 1}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high:
                raise ValueError(f"{name} must be a number from 0 to {high:g}, got {value!r}")
            object.__setattr__(self, name, float(value))
