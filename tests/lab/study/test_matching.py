"""Matching a whole validation set at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lab.study.bootstrap import average_precision
from lab.study.matching import SIZES, THRESHOLDS, ap_by_size, match

pytest.importorskip("ultralytics")


def scene(images: int = 6, classes: int = 3) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Boxes in each image but the last, and noisy copies of them besides random detections, by falling score."""
    found, boxes, labels, owner = [], [], [], []
    for i in range(images):
        count = int(torch.randint(2, 8, ())) if i < images - 1 else 0
        corner, size = 200 * torch.rand(count, 2), 20 + 60 * torch.rand(count, 2)
        truth, label = torch.cat([corner, corner + size], 1), torch.randint(classes, (count,))
        copies = (truth.repeat(4, 1) + 2 * torch.randn(4 * count, 4), label.repeat(4))
        noise = torch.cat([100 * torch.rand(5, 2), 100 + 100 * torch.rand(5, 2)], 1)
        all_boxes = torch.cat([copies[0], noise])
        all_labels = torch.cat([copies[1], torch.randint(classes, (5,))])
        score = torch.rand(len(all_boxes)).sort(descending=True).values
        found.append(torch.cat([all_boxes, score[:, None], all_labels[:, None].float()], 1))
        boxes.append(truth)
        labels.append(label)
        owner.append(torch.full((count,), i))
    return found, torch.cat(boxes), torch.cat(labels), torch.cat(owner)


def test_matches_are_those_of_ultralytics():
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.utils.metrics import box_iou

    found, box, label, image = scene()
    detections, matched = match(found, box, label, image)
    host = DetectionValidator.__new__(DetectionValidator)
    host.iouv = torch.linspace(0.5, 0.95, 10)
    expected = []
    for i, f in enumerate(found):
        mine = image == i
        if mine.any():
            expected.append(host.match_predictions(f[:, 5], label[mine].float(), box_iou(box[mine], f[:, :4])))
        else:
            expected.append(torch.zeros(len(f), 10, dtype=torch.bool))
    assert torch.equal(detections.correct, torch.cat(expected))
    assert 0 < detections.correct[:, -1].sum() < detections.correct[:, 0].sum()
    assert torch.equal(matched >= 0, detections.correct)


def test_no_box_is_matched_twice_and_each_by_its_own_class_and_image():
    found, box, label, image = scene()
    detections, matched = match(found, box, label, image)
    for t in range(len(THRESHOLDS)):
        taken = matched[:, t][matched[:, t] >= 0]
        assert len(taken) == len(taken.unique())
        right = detections.correct[:, t]
        assert torch.equal(detections.label[right], label[taken])
        assert torch.equal(detections.image[right], image[taken])


def test_a_set_without_detections_or_boxes():
    empty = [torch.zeros(0, 6), torch.zeros(0, 6)]
    none, matched = match(empty, torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]), torch.tensor([1]))
    assert none.correct.shape == matched.shape == (0, 10)
    assert average_precision(none, torch.ones(1, 2).double()).sum() == 0
    found = [torch.tensor([[0.0, 0, 9, 9, 0.5, 0]])]
    boxless, _ = match(found, torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).long())
    assert not boxless.correct.any()


def test_one_size_alone_has_the_whole_figure_and_the_others_none():
    found, box, label, image = scene()
    detections, matched = match(found, box, label, image)
    whole = float(average_precision(detections, torch.ones(1, len(found)).double()).mean())
    side = torch.full((len(found),), 1e4)  # every box is tiny in an image as large as that
    assert ap_by_size(found, detections, matched, box, side) == {
        "small": pytest.approx(whole, abs=1e-5), "medium": 0.0, "large": 0.0,
    }  # fmt: skip


def test_sizes_are_those_of_cocos_rule():
    found, box, label, image = scene(12)
    side = torch.full((len(found),), 300.0)
    detections, matched = match(found, box, label, image)
    got = ap_by_size(found, detections, matched, box, side)
    relative = (box[:, 2:] - box[:, :2]).prod(1).sqrt() / 300
    ones = torch.ones(1, len(found)).double()
    for name, (low, high) in SIZES.items():
        inside = (relative >= low) & (relative < high)
        perfect = [
            torch.cat([box[image == i], torch.ones(int((image == i).sum()), 1), label[image == i][:, None]], 1)
            for i in range(len(found))
        ]
        all_right, all_matched = match(perfect, box, label, image)
        figure = ap_by_size(perfect, all_right, all_matched, box, side)[name]
        assert figure == (pytest.approx(1, abs=0.01) if inside.any() else 0)
        assert 0 <= got[name] <= 1
    assert np.isfinite(float(average_precision(detections, ones).mean()))
