"""Figures from the counts of pairs, and their intervals: a bootstrap over blocks of consecutive pairs.

Neighbouring pairs of one drive show nearly the same, so single pairs would be no independent draws. A resample takes
blocks of pairs that follow each other, from each drive as many pairs as it has; blocks run on past the drive's end at
its beginning (circular block bootstrap). Letters: R resamples, P pairs, C classes.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lab.two_maps.frames import CLASSES, SMALL
from pst.train.tasks.segment import class_iou

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@functools.lru_cache(maxsize=16)
def weights(drives: tuple[str, ...], block: int, name: str, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """How often each pair is in each resample; the first row is all ones, the figure itself.

    Args:
        drives: (P,) the drive of each pair, pairs of one drive in order and together.
        block: Consecutive pairs that are drawn as one; 1 draws single ones.
        name: Seeds the draw, so that every row of a table has the same resamples and differences are paired.
        resamples: R.

    Returns:
        (1 + R, P).
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    out = np.zeros((1 + resamples, len(drives)))
    out[0] = 1
    labels = np.asarray(drives)
    for drive in dict.fromkeys(drives):
        own = np.flatnonzero(labels == drive)
        length = min(block, len(own))
        starts = rng.integers(len(own), size=(resamples, -(-len(own) // length)))
        drawn = ((starts[..., None] + np.arange(length)) % len(own)).reshape(resamples, -1)[:, : len(own)]
        for r in range(resamples):
            out[1 + r, own] = np.bincount(drawn[r], minlength=len(own))
    return out


def estimate(figures: NDArray[np.float64]) -> Estimate:
    """(1 + R,) figures of `weights` -> the first, and the 2.5th and 97.5th percentile of the others."""
    low, high = np.nanpercentile(figures[1:], [2.5, 97.5])
    return Estimate(float(figures[0]), float(low), float(high))


def mean_iou(
    true: Sequence[Sequence[int]],
    given: Sequence[Sequence[int]],
    weight: NDArray[np.float64] | None = None,
    classes: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Mean intersection over union in percent, from the counts of `lab.two_maps.labels`.

    Args:
        true: (P, C) pixels of each class.
        given: (P, 2C) pixels rightly given to each class, then all that were given to it.
        weight: (R, P), None for ones.
        classes: The mean is over these, None for all; those without a pixel in a resample are left out.

    Returns:
        (R,).
    """
    counts = np.concatenate([np.asarray(true), np.asarray(given)], 1).astype(np.float64)
    sums = counts.sum(0, keepdims=True) if weight is None else weight @ counts
    real, right, found = np.split(sums, 3, axis=1)
    # as a confusion matrix whose last class takes what went wrong: its margins are those of the whole one
    matrix = np.zeros((len(sums), CLASSES + 1, CLASSES + 1))
    diagonal = np.arange(CLASSES)
    matrix[:, diagonal, diagonal] = right
    matrix[:, :CLASSES, CLASSES] = real - right
    matrix[:, CLASSES, :CLASSES] = found - right
    iou = class_iou(torch.from_numpy(matrix))[:, list(range(CLASSES) if classes is None else classes)]
    return 100 * iou.nanmean(1).numpy()


def small_iou(*args: Any) -> NDArray[np.float64]:
    """`mean_iou` of pole, sign, pedestrian and bicyclist."""
    return mean_iou(*args, classes=SMALL)
