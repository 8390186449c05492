"""Which detections are right: greedy matching of a whole validation set at once, and the same by object size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lab.study.bootstrap import Detections, average_precision
from pst.train.tasks.detection_metrics import THRESHOLDS

SIZES = {"small": (0.0, 0.1), "medium": (0.1, 0.25), "large": (0.25, float("inf"))}  # √area over the longest side


def match(found: Sequence[Tensor], box: Tensor, label: Tensor, image: Tensor) -> tuple[Detections, Tensor]:
    """Give each detection, by falling score, the best box of its class that no earlier one took (as COCO does).

    Args:
        found: For each image (n, 6): corners, score, label, by falling score.
        box: (G, 4), corners of all ground-truth boxes.
        label: (G,) int64.
        image: (G,) int64, in rising order.

    Returns:
        The detections, and (D, T) int64: which of the G boxes each one matches at each of `THRESHOLDS`, −1 for none.
    """
    device, count = box.device, len(found)
    # As Ultralytics rounds them, on every device.
    thresholds = torch.linspace(THRESHOLDS[0], THRESHOLDS[-1], len(THRESHOLDS)).to(device)
    sizes = torch.tensor([len(f) for f in found], device=device)
    boxes_in = torch.bincount(image, minlength=count)
    first = boxes_in.cumsum(0) - boxes_in
    padded = pad_sequence(list(found), batch_first=True)  # (I, P, 6)
    truth = pad_sequence(list(torch.cat([box, label[:, None]], 1).split(boxes_in.tolist())), batch_first=True)
    overlap = _iou(truth[..., :4], padded[..., :4]) * (truth[..., 4][:, :, None] == padded[..., 5][:, None])
    overlap = overlap * (torch.arange(truth.shape[1], device=device) < boxes_in[:, None])[:, :, None]
    valid = torch.arange(padded.shape[1], device=device) < sizes[:, None]
    candidate = (overlap >= THRESHOLDS[0]).any(1) & valid if truth.shape[1] else torch.zeros_like(valid)
    rank = candidate.long().cumsum(1) - 1
    matched = torch.full((*valid.shape, len(thresholds)), -1, dtype=torch.long, device=device)
    taken = torch.zeros(count, truth.shape[1], len(thresholds), dtype=torch.bool, device=device)
    for r in range(int(rank.max()) + 1 if candidate.any() else 0):
        rows, columns = ((rank == r) & candidate).nonzero(as_tuple=True)  # one detection of each image at most
        free = overlap[rows, :, columns][..., None].expand(-1, -1, len(thresholds)).masked_fill(taken[rows], 0)
        best = free.argmax(1)  # (rows, T)
        right = free.gather(1, best[:, None])[:, 0] >= thresholds
        taken[rows] |= torch.zeros_like(taken[rows]).scatter(1, best[:, None], right[:, None])
        matched[rows, columns] = torch.where(right, best + first[rows, None], -1)
    matched = matched[valid]
    flat = torch.cat(list(found)) if found else padded.reshape(0, 6)
    images = torch.arange(count, device=device).repeat_interleave(sizes)
    return Detections(flat[:, 4].double(), flat[:, 5].long(), images, matched >= 0, label, image), matched


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """(I, G, 4) and (I, P, 4) corners -> (I, G, P), with Ultralytics' ε."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area = [(t[..., 2:] - t[..., :2]).prod(-1) for t in (a, b)]
    return inter / (area[0][:, :, None] + area[1][:, None] - inter + 1e-7)


def ap_by_size(
    found: Sequence[Tensor], detections: Detections, matched: Tensor, box: Tensor, side: Tensor
) -> dict[str, float]:
    """mAP50-95 of the small, medium and large objects (`SIZES`), by COCO's rule.

    COCO's own limits are pixels of its large photos; these are shares of the image, so they suit sets of any size.
    Boxes of another size, what matches them, and unmatched detections of another size are left out of the count.

    Args:
        found: As for `match`.
        detections: What `match` returned.
        matched: Likewise.
        box: (G, 4).
        side: (I,), longest side of each image.
    """
    truth_size = _relative_size(box, side[detections.true_image])
    own_size = _relative_size(torch.cat(list(found))[:, :4], side[detections.image])
    ones = torch.ones(1, len(side), dtype=torch.float64, device=box.device)
    result = {}
    for name, (low, high) in SIZES.items():
        inside = (truth_size >= low) & (truth_size < high)
        own = (own_size >= low) & (own_size < high)
        keep = torch.where(matched >= 0, inside[matched.clamp(min=0)], own[:, None])
        part = Detections(
            detections.score,
            detections.label,
            detections.image,
            detections.correct & keep,
            detections.true_label[inside],
            detections.true_image[inside],
        )
        result[name] = round(float(average_precision(part, ones, keep=keep).mean()), 5)
    return result


def _relative_size(box: Tensor, side: Tensor) -> Tensor:
    return (box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1).sqrt() / side
