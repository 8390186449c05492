"""Matching and average precision against COCO's own implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pst.data.images import Boxes
from pst.train.tasks.detection_metrics import THRESHOLDS, coco_metrics, match

CLASSES = ("a", "b", "c")


def scene(seed: int, images: int = 6, *, crowds: bool = False):
    """Random objects, and detections that are the objects moved a little, plus some from nowhere."""
    rng = np.random.default_rng(seed)
    records, truth = [], []
    for i in range(images):
        count = int(rng.integers(0, 6))
        corner = rng.uniform(0, 150, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 120, (count, 2))], 1)
        labels = rng.integers(0, 3, count)
        crowd = rng.random(count) < 0.3 if crowds else np.zeros(count, dtype=bool)
        truth.append(Boxes(torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels), torch.tensor(crowd)))
        copies = np.repeat(boxes, 2, 0) + rng.normal(0, 6, (2 * count, 4))
        copies[:, 2:] = np.maximum(copies[:, 2:], copies[:, :2] + 1)
        stray = rng.uniform(0, 100, (4, 2))
        found = np.concatenate([copies, np.concatenate([stray, stray + 30], 1)])
        record = {
            "index": i,
            "size": (300, 300),
            "boxes": found.tolist(),
            "scores": rng.permutation(len(found)).astype(float).tolist(),
            "labels": np.concatenate([np.repeat(labels, 2), rng.integers(0, 3, 4)]).tolist(),
        }
        record["scores"] = [(s + i / 10) / 100 for s in record["scores"]]  # no two are equal
        records.append(record)
    return records, truth


def columns(records, truth):
    rows = [match(record, boxes) for record, boxes in zip(records, truth, strict=True)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def average_precision(images, sample=None):
    """COCO's precision at 101 recalls, (10, classes), from the columns of `match`, for resampled images."""
    chosen = range(len(images["scores"])) if sample is None else sample
    scores, labels, hits, ignored = (
        np.concatenate([np.asarray(images[name][i], dtype=kind) for i in chosen])
        for name, kind in (("scores", np.float64), ("labels", np.int64), ("hits", np.int64), ("ignored", np.int64))
    )
    objects: dict[int, int] = {}
    for i in chosen:
        for label, count in images["objects"][i].items():
            objects[int(label)] = objects.get(int(label), 0) + count
    order = np.argsort(-scores, kind="mergesort")
    labels, hits, ignored = labels[order], hits[order], ignored[order]
    bits = np.arange(len(THRESHOLDS))
    table = np.empty((len(THRESHOLDS), len(objects)))
    for column, label in enumerate(sorted(objects)):
        mine = labels == label
        right = np.right_shift(hits[mine, None], bits) & 1 == 1
        counts = np.right_shift(ignored[mine, None], bits) & 1 == 0
        for bit in bits:
            table[bit, column] = _precision(right[counts[:, bit], bit], objects[label])
    return table


def _precision(right, objects):
    if not len(right):
        return 0.0
    recall = right.cumsum() / objects
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(right))].mean())


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.booleans())
def test_the_records_hold_all_that_the_metric_needs(seed, crowds):
    records, truth = scene(seed, crowds=crowds)
    if not any(int((~boxes.crowd).sum()) for boxes in truth):
        return
    wanted = coco_metrics(records, truth, CLASSES)
    table = average_precision(columns(records, truth))
    assert table.mean() == pytest.approx(wanted["map"], abs=1e-9)
    assert table[0].mean() == pytest.approx(wanted["map50"], abs=1e-9)
    assert table[5].mean() == pytest.approx(wanted["map75"], abs=1e-9)


def test_a_resampled_set_is_the_set_of_those_images():
    records, truth = scene(3)
    sample = [0, 2, 2, 5]
    again = [{**records[i], "index": n} for n, i in enumerate(sample)]
    wanted = coco_metrics(again, [truth[i] for i in sample], CLASSES)["map"]
    found = average_precision(columns(records, truth), sample).mean()
    assert found == pytest.approx(wanted, abs=0.02)  # two copies have equal scores, which each side orders its own way


def test_perfect_and_empty():
    boxes = torch.tensor([[10.0, 10, 50, 50], [60, 60, 90, 99]])
    truth = [Boxes(boxes, torch.tensor([0, 2]), torch.zeros(2, dtype=torch.bool))]
    right = {"index": 0, "size": (100, 100), "boxes": boxes.tolist(), "scores": [0.9, 0.8], "labels": [0, 2]}
    assert coco_metrics([right], truth, CLASSES)["map"] == 1
    found = match(right, truth[0])
    assert found["hits"] == [1023, 1023]
    assert found["objects"] == {0: 1, 2: 1}
    nothing = {**right, "boxes": [], "scores": [], "labels": []}
    found = coco_metrics([nothing], truth, CLASSES)
    assert found == {"map": 0, "map50": 0, "map75": 0, "map_small": -1, "map_medium": 0, "map_large": -1}
    wrong = {**right, "boxes": [[0.0, 0, 9, 9]], "scores": [0.5], "labels": [0]}
    assert coco_metrics([wrong], truth, CLASSES) == found
    assert average_precision(columns([nothing], truth)).tolist() == [[0, 0]] * 10
    swapped = {**right, "labels": [2, 0]}
    assert match(swapped, truth[0])["hits"] == [0, 0]


def test_thresholds_crowds_and_double_detections():
    truth = Boxes(
        torch.tensor([[0.0, 0, 100, 100], [200, 0, 300, 100]]), torch.tensor([0, 0]), torch.tensor([False, True])
    )
    record = {
        "boxes": [[0, 0, 100, 100], [0, 0, 100, 60], [210, 10, 230, 30]],
        "scores": [0.5, 0.9, 0.3],
        "labels": [0, 0, 0],
    }
    found = match(record, truth)
    assert found["scores"] == [0.9, 0.5, 0.3]
    assert found["hits"] == [0b111, 0b1111111000, 0]  # IoU 0.6 wins first up to its threshold, then the whole box
    assert found["ignored"] == [0, 0, 1023]  # inside the crowd
    assert found["objects"] == {0: 1}


@pytest.mark.parametrize(("first", "hits"), [(0, [0b1111111, 1023]), (1, [0b1111111, 0b1110001111])])
def test_of_objects_that_overlap_equally_the_last_is_taken(first, hits):
    """As COCO does. The first detection lies between two objects, the second one is the left object."""
    objects = [[0.0, 0, 100, 100], [20, 0, 120, 100]]
    boxes = torch.tensor([objects[first], objects[1 - first]])
    truth = Boxes(boxes, torch.tensor([0, 0]), torch.tensor([False, False]))
    found = {"boxes": [[10, 0, 110, 100], objects[0]], "scores": [0.9, 0.5], "labels": [0, 0]}
    assert match(found, truth)["hits"] == hits
    record = {**found, "index": 0, "size": (200, 200)}
    wanted = coco_metrics([record], [truth], CLASSES)["map"]
    assert average_precision(columns([record], [truth])).mean() == pytest.approx(wanted, abs=1e-9)


def test_a_hundred_detections_of_a_class_count():
    truth = Boxes(torch.tensor([[0.0, 0, 50, 50]]), torch.tensor([0]), torch.tensor([False]))
    found = {
        "index": 0,
        "size": (200, 200),
        "boxes": [[100, 100, 150, 150]] * 100 + [[0, 0, 50, 50], [0, 0, 50, 50]],
        "scores": [1 - i / 1000 for i in range(102)],
        "labels": [0] * 101 + [1],
    }
    assert len(match(found, truth)["hits"]) == 101  # and the one of the other class
    assert match(found, truth)["hits"] == [0] * 101
    assert coco_metrics([found], [truth], CLASSES)["map"] == 0
