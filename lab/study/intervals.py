"""Means over seeds, and intervals from resampled images and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lab.study.bootstrap import unpack

_SEED_DRAWS = 20  # of seeds for each resample of images


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds.

    Attributes:
        mean: Of the seeds.
        sd: Standard deviation between seeds; None for one seed.
        n: Number of seeds.
        low: 2.5th percentile of the paired bootstrap; None where there is none.
        high: 97.5th percentile.
    """

    mean: float
    sd: float | None
    n: int
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def value(results: Sequence[Mapping[str, Any]], variant: str, field: str = "value") -> Estimate:
    """A metric of one variant over the seeds of one training.

    Args:
        results: Result files of the seeds.
        variant: Name of the variant.
        field: "value", "ap50", "small", …
    """
    figures = [float(r["evaluations"][variant][field]) for r in results]
    return _estimate(figures)


def gain(results: Sequence[Mapping[str, Any]], variant: str, base: str = "k0", field: str = "value") -> Estimate:
    """Difference of two variants of the same weights; the interval (of "value" alone) pairs seeds and images."""
    figures = [float(r["evaluations"][variant][field]) - float(r["evaluations"][base][field]) for r in results]
    if field != "value":
        return _estimate(figures)
    table = np.stack([_replicates(r, variant) - _replicates(r, base) for r in results])
    return _estimate(figures, _draw(table, np.random.default_rng(0)))


def difference(
    results: Sequence[Mapping[str, Any]], variant: str, others: Sequence[Mapping[str, Any]], other_variant: str
) -> Estimate:
    """Difference of two trainings' means; the interval pairs images, and draws the seeds of each on their own."""
    own, other = value(results, variant), value(others, other_variant)
    rng = np.random.default_rng(0)
    drawn = _draw(np.stack([_replicates(r, variant) for r in results]), rng)
    drawn = drawn - _draw(np.stack([_replicates(r, other_variant) for r in others]), rng)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(own.mean - other.mean, None, min(own.n, other.n), float(low), float(high))


def _replicates(result: Mapping[str, Any], variant: str) -> np.ndarray:
    names = list(result["evaluations"])
    return _table(result["replicates"], len(names))[names.index(variant)]


@lru_cache(maxsize=64)  # a table asks for every variant of a few results
def _table(text: str, variants: int) -> np.ndarray:
    return unpack(text, variants)


def _draw(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S, R) -> (draws, R): means over seeds drawn with replacement, for the same images in each column."""
    seeds, resamples = table.shape
    picked = rng.integers(seeds, size=(_SEED_DRAWS, seeds, resamples))
    return np.take_along_axis(table[None], picked, axis=1).mean(1)


def _estimate(figures: Sequence[float], drawn: np.ndarray | None = None) -> Estimate:
    sd = statistics.stdev(figures) if len(figures) > 1 else None
    low, high = (None, None) if drawn is None else (float(x) for x in np.percentile(drawn, [2.5, 97.5]))
    return Estimate(statistics.fmean(figures), sd, len(figures), low, high)
