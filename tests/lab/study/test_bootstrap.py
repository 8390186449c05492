"""Weighted average precision, other weighted metrics, and their packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lab.study.bootstrap import (
    UNIT,
    Detections,
    average_precision,
    mean_iou,
    pack,
    resample_weights,
    unpack,
    weighted_mean,
)

IMAGES, CLASSES, THRESHOLDS = 12, 3, 4


def detections(*, ties: bool = False) -> Detections:
    """Random detections, fewer right ones at higher thresholds, and every right one has a box."""
    count, missed = 200, 40
    image, label = torch.randint(IMAGES, (count,)), torch.randint(CLASSES, (count,))
    quality = torch.rand(count)
    correct = torch.stack([quality < 0.3 - 0.06 * t for t in range(THRESHOLDS)], 1)
    right = correct[:, 0]
    score = torch.rand(count, dtype=torch.float64)
    return Detections(
        score=(score * 10).round() / 10 if ties else score,
        label=label,
        image=image,
        correct=correct,
        true_label=torch.cat([label[right], torch.randint(CLASSES, (missed,))]),
        true_image=torch.cat([image[right], torch.randint(IMAGES, (missed,))]),
    )


def area(right: np.ndarray, weight: np.ndarray, boxes: float, interpolation: str) -> float:
    """One class at one threshold, point by point."""
    points = []
    hits = seen = 0.0
    for r, w in zip(right, weight, strict=True):
        if w == 0:
            continue
        hits, seen = hits + w * r, seen + w
        points.append((hits / boxes, hits / seen))
    if not points:
        return 0.0
    best = [max(p for _, p in points[i:]) for i in range(len(points))]
    x = np.linspace(0, 1, 101)
    if interpolation == "step":
        return float(np.mean([max((p for r, p in points if r >= at), default=0.0) for at in x]))
    recall = [0.0, *(r for r, _ in points), points[-1][0], 1.0]
    precision = [max(1.0, best[0]), *best, 0.0, 0.0]
    return float(sum(np.convolve(np.interp(x, recall, precision), [0.5, 0.5], "valid")) / 100)


def naive(found: Detections, weights: Tensor, interpolation: str, keep: Tensor | None = None) -> np.ndarray:
    table = np.zeros((len(weights), found.correct.shape[1]))
    order = np.argsort(-found.score.numpy(), kind="stable")
    for r, w in enumerate(weights.numpy()):
        areas = []
        for c in range(CLASSES):
            boxes = w[found.true_image[found.true_label == c].numpy()].sum()
            mine = [i for i in order if found.label[i] == c]
            if boxes == 0:
                continue
            row = []
            for t in range(found.correct.shape[1]):
                counted = [i for i in mine if keep is None or keep[i, t]]
                row.append(
                    area(found.correct[counted, t].numpy(), w[found.image[counted].numpy()], boxes, interpolation)
                )
            areas.append(row)
        table[r] = np.mean(areas, 0) if areas else 0
    return table


@pytest.mark.parametrize("interpolation", ["linear", "step"])
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_the_naive_loop(interpolation, ties):
    found, weights = detections(ties=ties), resample_weights("a set", IMAGES, 20)
    got = average_precision(found, weights, interpolation=interpolation)
    np.testing.assert_allclose(got.numpy(), naive(found, weights, interpolation), rtol=0, atol=1e-12)


@pytest.mark.parametrize("interpolation", ["linear", "step"])
def test_detections_that_do_not_count_are_left_out(interpolation):
    found, weights = detections(), resample_weights("a set", IMAGES, 5)
    keep = found.correct | (torch.rand(found.correct.shape) < 0.5)
    got = average_precision(found, weights, interpolation=interpolation, keep=keep)
    np.testing.assert_allclose(got.numpy(), naive(found, weights, interpolation, keep), rtol=0, atol=1e-12)
    assert (got > average_precision(found, weights, interpolation=interpolation)).any()


@pytest.mark.parametrize("ties", [False, True])
def test_unit_weights_give_ultralytics_figure(ties):
    """Given the order of equal scores, which Ultralytics leaves to a sort that is not stable: ours is as they came."""
    from ultralytics.utils.metrics import ap_per_class

    found = detections(ties=ties)
    tp, score, label, true = (t.numpy() for t in (found.correct, found.score, found.label, found.true_label))
    order = np.argsort(-score, kind="stable")
    expected = ap_per_class(tp[order], -np.arange(len(order)), label[order], true)[5].mean(0)
    got = average_precision(found, torch.ones(1, IMAGES, dtype=torch.float64))[0]
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)


def test_a_resample_without_boxes_of_a_class_averages_over_the_others():
    found = Detections(
        score=torch.tensor([0.9, 0.8]).double(),
        label=torch.tensor([0, 1]),
        image=torch.tensor([0, 1]),
        correct=torch.tensor([[True], [False]]),
        true_label=torch.tensor([0, 1]),
        true_image=torch.tensor([0, 1]),
    )
    weights = torch.tensor([[1, 1], [2, 0], [0, 2], [0, 0]]).double()
    got = average_precision(found, weights, interpolation="step")[:, 0]
    torch.testing.assert_close(got, torch.tensor([0.5, 1.0, 0.0, 0.0]).double())


def test_resamples_depend_on_name_and_size_alone():
    weights = resample_weights("bccd", 72, 50)
    assert torch.equal(weights, resample_weights("bccd", 72, 50))
    assert not torch.equal(weights, resample_weights("other", 72, 50))
    assert (weights.sum(1) == 72).all()
    assert 0.5 < (weights == 0).double().mean() / np.exp(-1) < 1.5


def test_mean_and_iou_count_an_image_as_often_as_it_was_drawn():
    weights = torch.tensor([[2, 0, 1]]).double()
    torch.testing.assert_close(weighted_mean(torch.tensor([1, 0, 0]), weights), torch.tensor([2 / 3]).double())
    confusion = torch.randint(1, 9, (3, 4, 4))
    repeated = confusion[[0, 0, 2]].sum(0).double()
    hit = repeated.diag()
    expected = (hit / (repeated.sum(0) + repeated.sum(1) - hit)).mean()
    torch.testing.assert_close(mean_iou(confusion, weights)[0], expected)


def test_a_class_that_is_not_in_the_truth_does_not_count():
    confusion = torch.tensor([[[4, 1], [0, 0]]])
    torch.testing.assert_close(mean_iou(confusion, torch.ones(1, 1).double()), torch.tensor([0.8]).double())


def test_packed_figures_come_back():
    rows = [torch.rand(30).double() for _ in range(4)]
    np.testing.assert_allclose(unpack(pack(rows), 4), np.stack(rows), rtol=0, atol=UNIT / 2 + 1e-12)
