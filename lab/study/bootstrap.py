"""Metrics of many resamples of the validation images at once, for paired comparisons.

A resample draws as many images as there are, with replacement: image i counts ``weights[r, i]`` times in resample r.
The weights depend on the data set's name and size alone, so resample r holds the same images in every cell and
variant, and differences between two of them are paired.

Letters: R resamples, I images, D detections, G ground-truth boxes, T IoU thresholds.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Interpolation = Literal["linear", "step"]
RESAMPLES = 200
_THRESHOLDS = 10  # of IoU, COCO's
UNIT = 1e-5  # what packed figures are rounded to


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of a validation set and whether each is right; all tensors on one device.

    Attributes:
        score: (D,) float.
        label: (D,) int64.
        image: (D,) int64, index of the image.
        correct: (D, T) bool, whether the detection matches a box at each IoU threshold.
        true_label: (G,) int64, labels of the ground-truth boxes.
        true_image: (G,) int64, their images.
    """

    score: Tensor
    label: Tensor
    image: Tensor
    correct: Tensor
    true_label: Tensor
    true_image: Tensor


def resample_weights(name: str, images: int, resamples: int = RESAMPLES) -> Tensor:
    """How often each image is in each resample.

    Args:
        name: Of the data set; seeds the draw.
        images: I.
        resamples: R.

    Returns:
        (R, I) float64 on the CPU; every row sums to I.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy(rng.multinomial(images, np.full(images, 1 / images), size=resamples)).double()


def detections_of(columns: Mapping[str, list[Any]], device: str) -> tuple[Detections, Tensor | None]:
    """One table of what `pst.train.tasks.detection_metrics.match` gave, and which detections count at which threshold.

    Args:
        columns: Its results, a list for each name with one entry an image.
        device: Of the table.
    """
    sizes = torch.tensor([len(scores) for scores in columns["scores"]])
    flat = {name: list(itertools.chain(*columns[name])) for name in ("scores", "labels", "hits", "ignored")}
    bits = 2 ** torch.arange(_THRESHOLDS)
    ignored = torch.tensor(flat["ignored"], dtype=torch.long)[:, None] & bits != 0
    truth = [(int(c), i) for i, objects in enumerate(columns["objects"]) for c, n in objects.items() for _ in range(n)]
    detections = Detections(
        score=torch.tensor(flat["scores"], dtype=torch.float64).to(device),
        label=torch.tensor(flat["labels"], dtype=torch.long).to(device),
        image=torch.arange(len(sizes)).repeat_interleave(sizes).to(device),
        correct=(torch.tensor(flat["hits"], dtype=torch.long)[:, None] & bits != 0).to(device),
        true_label=torch.tensor([c for c, _ in truth], dtype=torch.long).to(device),
        true_image=torch.tensor([i for _, i in truth], dtype=torch.long).to(device),
    )
    return detections, (~ignored).to(device) if ignored.any() else None


def average_precision(
    found: Detections, weights: Tensor, *, interpolation: Interpolation = "linear", keep: Tensor | None = None
) -> Tensor:
    """Average precision, mean over the classes that a resample has boxes of.

    The recall axis is sampled at 101 points. "linear" joins the points of the curve and integrates by trapezia, as
    Ultralytics 8.4 does; "step" takes the precision at the first point that reaches a recall and the mean, as
    pycocotools does. All copies of an image enter the curve at one point. Equal scores count in the order of
    ``found``, as in pycocotools; Ultralytics leaves them to a sort that is not stable, so that its figure for many
    equal scores, e.g. of an untrained model, differs from one processor to another.

    Args:
        found: Detections.
        weights: (R, I) float64; ones (1, I) for the figure itself.
        interpolation: "linear" or "step".
        keep: (D, T) bool, False where a detection is not counted at all; None counts every one.

    Returns:
        (R, T) float64 in [0, 1]; zero in a resample without boxes.
    """
    weights = weights.to(found.score.device)
    total = torch.zeros(len(weights), found.correct.shape[1], dtype=torch.float64, device=weights.device)
    classes = torch.zeros(len(weights), 1, dtype=torch.float64, device=weights.device)
    order = found.score.argsort(descending=True, stable=True)
    for label in found.true_label.unique():
        boxes = weights[:, found.true_image[found.true_label == label]].sum(1)
        picked = order[found.label[order] == label]
        kept = None if keep is None else keep[picked]
        total += _class_ap(weights[:, found.image[picked]], found.correct[picked], boxes, kept, interpolation)
        classes += (boxes > 0)[:, None]
    return total / classes.clamp(min=1)


def _class_ap(w: Tensor, correct: Tensor, boxes: Tensor, keep: Tensor | None, interpolation: Interpolation) -> Tensor:
    """(R, T) of one class: ``w`` (R, D) weight and ``correct`` (D, T) of detections by falling score, (R,) boxes."""
    out = torch.zeros(len(w), correct.shape[1], dtype=torch.float64, device=w.device)
    shared = w.cumsum(1) if keep is None else None
    for t in range(correct.shape[1]):
        right = correct[:, t].nonzero()[:, 0]
        if len(right) == 0:
            continue
        if shared is not None:
            seen = shared[:, right]
        else:
            assert keep is not None
            seen = (w * keep[:, t]).cumsum(1)[:, right]
        own = w[:, right]
        out[:, t] = _area(own, seen, boxes, interpolation)
    return torch.where(boxes[:, None] > 0, out, 0)


def _area(own: Tensor, seen: Tensor, boxes: Tensor, interpolation: Interpolation) -> Tensor:
    """(R,) area under the curve whose points are the right detections: their weight, and all weight up to each."""
    hits = own.cumsum(1)
    precision = hits / seen.clamp(min=1)  # nothing seen yet: 0
    envelope = precision.flip(1).cummax(1).values.flip(1)
    recall = hits / boxes.clamp(min=1)[:, None]
    grid = torch.from_numpy(np.linspace(0, 1, 101))  # PyTorch's own linspace rounds otherwise, and recalls fall on it
    x = grid.to(own.device).expand(len(own), -1).contiguous()
    if interpolation == "step":
        at = torch.searchsorted(recall, x)
        return torch.cat([envelope, torch.zeros_like(envelope[:, :1])], 1).gather(1, at).mean(1)
    wrong_after = seen[:, 1:] - own[:, 1:] - seen[:, :-1] > 0  # a wrong detection before the next right one
    left = torch.where(wrong_after, envelope[:, 1:], envelope[:, :-1])
    left = torch.cat([envelope[:, :1], left, torch.zeros_like(envelope[:, :1])], 1)  # before the first; past the last
    right = torch.cat([envelope, torch.zeros_like(envelope[:, :1])], 1)
    recall = torch.cat([torch.zeros_like(recall[:, :1]), recall], 1)
    at = torch.searchsorted(recall, x, right=True) - 1  # the last point at or before x
    after = (at + 1).clamp(max=recall.shape[1] - 1)
    gap = recall.gather(1, after) - recall.gather(1, at)
    share = torch.where(gap > 0, (x - recall.gather(1, at)) / gap.where(gap > 0, 1), 0)
    y = left.gather(1, at) * (1 - share) + right.gather(1, at) * share
    return (y.sum(1) - (y[:, 0] + y[:, -1]) / 2) / 100


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of one value per image: (I,) float and (R, I) float64 -> (R,), e.g. accuracy from right or wrong."""
    return (weights @ values.double().to(weights.device)) / weights.sum(1)


def mean_iou(confusion: Tensor, weights: Tensor) -> Tensor:
    """Mean intersection over union from one confusion matrix per image.

    Args:
        confusion: (I, C, C), pixels of each true class (row) given to each class (column).
        weights: (R, I) float64.

    Returns:
        (R,) mean over the classes that occur in the truth of the resample; 0 where none does.
    """
    from pst.train.tasks.segment import class_iou

    images, classes, _ = confusion.shape
    matrix = (weights @ confusion.double().reshape(images, -1)).reshape(-1, classes, classes)
    return class_iou(matrix).nanmean(1).nan_to_num(0)


def pack(rows: Sequence[Tensor]) -> str:
    """Figures in [0, 1], V sequences of R, as text: rounded to `UNIT`, every row but the first as its difference."""
    table = np.round(np.stack([row.cpu().numpy() for row in rows]) / UNIT).astype("<i4")
    table[1:] -= table[0]
    planes = np.ascontiguousarray(table.view(np.uint8).reshape(*table.shape, 4).transpose(2, 0, 1))
    return base64.b85encode(zlib.compress(planes.tobytes(), 9)).decode()


def unpack(text: str, variants: int) -> np.ndarray:
    """What `pack` was given, (V, R) float64, rounded to `UNIT`."""
    planes = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8).reshape(4, variants, -1)
    table = np.ascontiguousarray(planes.transpose(1, 2, 0)).view("<i4")[..., 0].astype(np.int64)
    table[1:] += table[0]
    return table * UNIT
