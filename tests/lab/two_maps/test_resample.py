"""Mean IoU from counts, and the bootstrap over blocks of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from lab.two_maps import labels
from lab.two_maps.figures import Sample, drawn_seeds
from lab.two_maps.frames import CLASSES
from lab.two_maps.resample import Estimate, estimate, mean_iou, small_iou, weights


def by_hand(given: np.ndarray, true: np.ndarray, classes: range | tuple[int, ...]) -> float:
    """Intersection over union pixel by pixel."""
    known = true < CLASSES
    found = []
    for c in classes:
        if (true == c).any():
            both, either = (known & (given == c) & (true == c)).sum(), (known & ((given == c) | (true == c))).sum()
            found.append(both / either)
    return 100 * float(np.mean(found))


def test_mean_iou_is_that_of_a_count_by_hand():
    rng = np.random.default_rng(0)
    true = rng.choice([0, 1, 2, 6, 9, 255], (40, 50)).astype(np.uint8)
    given = np.where(rng.random((40, 50)) < 0.6, true, rng.integers(0, CLASSES, (40, 50))).astype(np.uint8)
    counted = [labels.counts(given, true)], [labels.truth(true)]
    assert mean_iou(counted[1], counted[0])[0] == pytest.approx(by_hand(given, true, range(CLASSES)))
    assert small_iou(counted[1], counted[0])[0] == pytest.approx(by_hand(given, true, (2, 6, 9, 10)))


def test_pairs_are_summed_before_the_ratio():
    rng = np.random.default_rng(1)
    true, given = (rng.integers(0, 4, (2, 30, 30)).astype(np.uint8) for _ in range(2))
    found = mean_iou([labels.truth(t) for t in true], [labels.counts(g, t) for g, t in zip(given, true, strict=True)])
    assert found[0] == pytest.approx(by_hand(given.reshape(30, 60), true.reshape(30, 60), range(CLASSES)))


def test_an_unlabelled_pixel_is_a_miss_and_no_false_alarm():
    true = np.array([[0, 0, 1, 1]], np.uint8)
    given = np.array([[0, 255, 1, 1]], np.uint8)
    assert mean_iou([labels.truth(true)], [labels.counts(given, true)])[0] == pytest.approx(75)


def test_every_resample_has_as_many_pairs_of_each_drive_as_there_are_in_whole_blocks():
    drives = ("a",) * 10 + ("b",) * 7
    w = weights(drives, 5, "some", 300)
    assert w.shape == (301, 17)
    assert_allclose(w[0], 1)
    assert_allclose(w[:, :10].sum(1), 10)
    assert_allclose(w[:, 10:].sum(1), 7)
    assert_allclose(w[1:].mean(0), 1, atol=0.2)
    # two blocks of five on a circle of ten: a pair and the next are drawn alike nearly always
    assert np.corrcoef(w[1:, 3], w[1:, 4])[0, 1] > 0.5


def test_blocks_widen_the_interval_of_pairs_that_go_together():
    figures = np.repeat([0.0, 1, 0, 1], 10)
    alone, together = (estimate(weights(("a",) * 40, b, "x") @ figures / 40) for b in (1, 10))
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert alone.value == together.value == 0.5


def test_limits_a_constant_has_no_width_and_a_block_as_long_as_the_drive_neither():
    assert estimate(weights(("a",) * 6, 2, "x") @ np.full(6, 3.0) / 6) == Estimate(3, 3, 3)
    assert_allclose(weights(("a",) * 6, 99, "x"), 1)


def test_an_interval_excludes_zero_or_not():
    assert Estimate(1, 0.5, 2).significant
    assert Estimate(-1, -2, -0.5).significant
    assert not Estimate(1, -0.5, 2).significant


def test_seeds_are_drawn_for_each_resample_but_the_figure_is_the_mean_of_all():
    drawn = drawn_seeds(np.array([[1.0] * 501, [2.0] * 501, [6.0] * 501]))
    assert drawn[0] == 3
    assert drawn[1:].min() == 1
    assert drawn[1:].max() == 6


def record(right: int) -> dict[str, list[int]]:
    """Two classes of ten pixels each, of which so many are right."""
    none = [0] * 9
    return {
        "true": [10, 10, *none],
        "k0": [5, 5, *none, 10, 10, *none],
        "all": [10, 10, *none, 10, 10, *none],
        "window-8": [right, right, *none, 10, 10, *none],
    }


def test_a_row_of_fewer_pairs_is_compared_on_these_alone():
    records = {f"val-1 a_{i:03d} a_{i + 30:03d}": record(9) for i in range(0, 40, 2)}
    for key in list(records)[::2]:
        records[key]["few"] = records[key]["k0"]
    sample = Sample(records, "val-1")
    assert sample.size("window-8") == 20
    assert sample.size("few", "window-8") == 10
    assert sample.gain("few", "k0").value == 0
    assert sample.block() == 16  # frames 0, 2, …, 30: a second


def test_the_share_of_a_gain():
    records = {f"test-1 a_{30 * i:03d} a_{30 * i + 30:03d}": record(9) for i in range(5)}
    sample = Sample(records, "test-1")
    low, high = 100 * 5 / 15, 100
    assert sample.share("all").value == pytest.approx(100)
    assert sample.share("k0").value == 0
    assert sample.share("window-8").value == pytest.approx(100 * (100 * 9 / 11 - low) / (high - low))
    assert sample.block() == 2
