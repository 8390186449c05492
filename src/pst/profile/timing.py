"""Interleaved timing: A B A B …, so that a machine whose speed drifts slows every case alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pst.profile.bar import bar

_LOOK = "{desc} {bar} {n:.0f}/{total:.0f} s"


@dataclass(frozen=True)
class Timing:
    """Times of one case in milliseconds.

    Attributes:
        median: Quote this one.
        low: 10 % of the runs were faster.
        high: 10 % were slower.
        runs: Number of counted runs.
    """

    median: float
    low: float
    high: float
    runs: int


def interleave(
    cases: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 5.0,
    min_runs: int = 5,
    warmup: int = 2,
    shuffled: bool = False,
    progress: bool = True,
) -> dict[str, Timing]:
    """Time every case in turn, round after round.

    Args:
        cases: Name -> function of no arguments.
        seconds: Rounds are run until this much time has passed, all cases together.
        min_runs: Rounds at least.
        warmup: Rounds first that are not counted.
        shuffled: Draw the order anew for each round, with a seed, so that no case has the same one before it always:
            what ran before leaves its own data in the caches.
        progress: Show a bar on a terminal.

    Returns:
        Name -> `Timing`, in the order of ``cases``.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    order, draw = list(cases), random.Random(0)
    with bar(None, "  rounds", total=seconds, enabled=progress, bar_format=_LOOK) as shown:
        begin = time.perf_counter()
        for i in range(1_000_000):
            if shuffled:
                draw.shuffle(order)
            for name in order:
                elapsed = _time(cases[name])
                if i >= warmup:
                    times[name].append(elapsed * 1e3)
            passed = time.perf_counter() - begin
            shown.update(min(passed, seconds) - shown.n)
            if i >= warmup + min_runs - 1 and passed >= seconds:
                break
    return {name: _summary(values) for name, values in times.items()}


def _time(case: Callable[[], object]) -> float:
    begin = time.perf_counter()
    case()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _summary(values: list[float]) -> Timing:
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return Timing(statistics.median(values), deciles[0], deciles[-1], len(values))
