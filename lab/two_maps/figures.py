"""Figures and intervals of result files: of one row, of two rows' difference, of the share of a gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.two_maps import frames
from lab.two_maps.resample import Estimate, estimate, mean_iou, small_iou, weights
from pst.io.files import read_json

SECOND = frames.RATE  # in numbers of frames

Records = Mapping[str, Mapping[str, Any]]
Metric = Callable[[Sequence[Mapping[str, Any]], str, NDArray[np.float64]], NDArray[np.float64]]


def load(results: Path, name: str) -> dict[str, Any] | None:
    """A result file, None where there is none."""
    return read_json(results / name) if (results / name).is_file() else None


def miou(records: Sequence[Mapping[str, Any]], row: str, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean IoU of 11 classes in each resample."""
    return mean_iou([r["true"] for r in records], [r[row] for r in records], weight)


def small(records: Sequence[Mapping[str, Any]], row: str, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean IoU of the four small classes in each resample."""
    return small_iou([r["true"] for r in records], [r[row] for r in records], weight)


def psnr(kind: int) -> Metric:
    """Mean over pairs of the peak signal-to-noise ratio in dB, of one of `colour.KINDS` by its index."""

    def metric(records: Sequence[Mapping[str, Any]], row: str, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        values = -10 * np.log10([r[row][kind] for r in records])
        return weight @ values / weight.sum(1)

    return metric


def within(kind: int) -> Metric:
    """Percent of visible positions found within one of `matching.WITHIN`, by its index."""

    def metric(records: Sequence[Mapping[str, Any]], row: str, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        found, seen = ([r[row][kind] for r in records], [r["visible"] for r in records])
        return 100 * (weight @ np.asarray(found, float)) / (weight @ np.asarray(seen, float))

    return metric


class Sample:
    """The records of one split and time apart, in order, and figures of them.

    A row that was run on fewer pairs is compared with others on these pairs alone.

    Args:
        records: Of one result file; names are "SETTING FIRST SECOND", behind "PREFIX " where there is one.
        setting: E.g. "val-1".
        metric: `miou`, `small`, or another.
        prefix: Of the records' names.
    """

    def __init__(self, records: Records, setting: str, metric: Metric = miou, prefix: str = "") -> None:
        start = f"{prefix} {setting} ".lstrip()
        found = {tuple(key.removeprefix(start).split()): r for key, r in records.items() if key.startswith(start)}
        order = {d: i for i, d in enumerate(dict.fromkeys(frames.drive(first) for first, _ in found))}
        keys = sorted(found, key=lambda key: (order[frames.drive(key[0])], frames.number(key[0])))
        self.keys, self.records = keys, [found[key] for key in keys]
        self.setting, self.metric = setting, metric

    def size(self, *rows: str) -> int:
        """Pairs that all these rows were run on."""
        return len(self._with(rows))

    def value(self, row: str) -> Estimate:
        """Figure of a row."""
        return estimate(self._figures(row, (row,)))

    def values(self, row: str, among: Sequence[str]) -> NDArray[np.float64]:
        """(1 + R,) figures of a row on the pairs that it shares with others; the first is not a resample."""
        return self._figures(row, (row, *among))

    def gain(self, row: str, base: str) -> Estimate:
        """Difference of two rows, on the pairs that both have."""
        return estimate(self.values(row, [base]) - self.values(base, [row]))

    def share(self, row: str, base: str = "k0", whole: str = "all") -> Estimate:
        """Percent of the gain of ``whole`` over ``base`` that a row keeps."""
        own, low, high = (self.values(name, [row, base, whole]) for name in (row, base, whole))
        return estimate(100 * (own - low) / (high - low))

    def _figures(self, row: str, rows: Sequence[str]) -> NDArray[np.float64]:
        key = (row, tuple(sorted(set(rows))))
        if key not in self._known:
            picked = self._with(rows)
            self._known[key] = self.metric([self.records[i] for i in picked], row, self._weight(picked))
        return self._known[key]

    @cached_property
    def _known(self) -> dict[Any, NDArray[np.float64]]:
        return {}

    def _weight(self, picked: Sequence[int]) -> NDArray[np.float64]:
        drives = tuple(frames.drive(self.keys[i][0]) for i in picked)
        return weights(drives, self.block(picked), self.setting)

    def _with(self, rows: Sequence[str]) -> list[int]:
        return [i for i, record in enumerate(self.records) if all(row in record for row in rows)]

    def block(self, picked: Sequence[int] | None = None) -> int:
        """Consecutive pairs whose first frames lie at most a second apart: what is drawn as one."""
        picked = range(len(self.keys)) if picked is None else picked
        names = [self.keys[i][0] for i in picked]
        steps = [frames.number(b) - frames.number(a) for a, b in pairwise(names) if frames.drive(a) == frames.drive(b)]
        return 1 + int(SECOND // np.median(steps)) if steps else 1


class Photos(Sample):
    """The same of single photos, each drawn on its own."""

    def __init__(self, records: Records, metric: Metric) -> None:
        self.keys, self.records = [(key,) for key in records], list(records.values())
        self.setting, self.metric = "photos", metric

    def _weight(self, picked: Sequence[int]) -> NDArray[np.float64]:
        return weights(("photo",) * len(picked), 1, self.setting)


def over_seeds(samples: Sequence[Sample], row: str, base: str | None = None) -> Estimate:
    """Mean over seeds of a row, or of its difference from another; a resample draws pairs and seeds.

    Args:
        samples: One for each seed, of the same pairs.
        row: The row.
        base: What is subtracted.
    """
    tables = [s.values(row, [] if base is None else [base]) for s in samples]
    if base is not None:
        tables = [own - s.values(base, [row]) for own, s in zip(tables, samples, strict=True)]
    return estimate(drawn_seeds(np.stack(tables)))


def drawn_seeds(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S, 1 + R) -> (1 + R,): the mean over all seeds first, then over as many seeds drawn for each resample."""
    seeds, resamples = table.shape
    picked = np.random.default_rng(0).integers(seeds, size=(seeds, resamples))
    picked[:, 0] = np.arange(seeds)
    return np.take_along_axis(table, picked, 0).mean(0)
