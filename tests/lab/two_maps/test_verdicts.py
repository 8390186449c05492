"""Whether what was wanted holds, said of results that are known."""

from __future__ import annotations

from typing import Any

import pytest

from lab.two_maps.verdicts import summary, verdicts

NONE = [0] * 9


def records(window: int, nearest: int = 60, pairs: int = 12, prefix: str = "") -> dict[str, Any]:
    """Two classes of 100 pixels; k = 0 has 50 right, all fine 90."""

    def row(right: int) -> list[int]:
        return [right, right, *NONE, 100, 100, *NONE]

    every = {"k0": 50, "random-window-0": 50, "nearest": nearest, "window-8": window, "all": 90}
    return {
        f"{prefix}{split} a_{30 * i:04d} a_{30 * i + 30:04d}": {
            "true": [100, 100, *NONE],
            **{name: row(right + i % 3) for name, right in every.items()},
        }
        for split in ("val-1", "test-1")
        for i in range(pairs)
    }


def lines(table: str) -> dict[tuple[str, str], tuple[str, str]]:
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {(c[0], c[1]): (c[2], c[3]) for c in cells}


def test_what_holds_is_said_to_hold():
    found = lines(verdicts(records(89), None, None))
    assert len(found) == 8
    assert {holds for _, holds in found.values()} == {"yes"}


def test_what_fails_is_said_with_how_much_is_missing():
    found = lines(verdicts(records(70, nearest=70), None, None))
    share, holds = found["≥ 85 % of the gain of all fine", "val, 1 s"]
    assert holds.startswith("no, by ")
    assert float(holds.removeprefix("no, by ")) == pytest.approx(85 - float(share.split()[0]), abs=0.6)
    assert found["gain over nearest", "test, 1 s"] == ("+0.0 [0.0, 0.0]", "no: not significant")
    assert found["gain over k = 0", "test, 1 s"][1] == "yes"
    worse = lines(verdicts(records(70, nearest=80), None, None))
    assert worse["gain over nearest", "val, 1 s"][1] == "no: it is a loss"


def test_times_are_judged_against_the_faster_way_of_all_fine():
    def costs(window: float) -> dict[str, Any]:
        times = {"window-8": window, "all": 200, "all-plain": 100}
        return {"time efficientnet-lite0": {name: {"ms": ms} for name, ms in times.items()}}

    key = ("≤ 25 % of the time of all fine, the faster way", "176 channels")
    assert lines(verdicts(records(89), costs(30), None))[key] == ("30 %", "no, by 5.0")
    assert lines(verdicts(records(89), costs(20), None))[key] == ("20 %", "yes")
    assert "in 20 % of their time" in summary(records(89), costs(20))


def test_trained_gains_are_over_seeds():
    learned = {**records(80, prefix="k=0/0 "), **records(84, prefix="k=0/1 ")}
    found = lines(verdicts(records(89), None, learned))
    gain, holds = found["trained with k = 0, then switched on", "val, 1 s, 2 seeds"]
    assert holds == "yes"
    assert gain.startswith("+")
