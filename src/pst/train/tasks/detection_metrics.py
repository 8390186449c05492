"""COCO's metrics of detections, which detection matches which object, and the masks of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from pst.data.images import Boxes, fitted
from pst.train.tasks.base import Record

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""IoU from which a detection counts, COCO's ten."""
_MOST = 100  # detections of an image and class that count
_NAMES = {
    "map": "AP_all",
    "map50": "AP_50",
    "map75": "AP_75",
    "map_small": "AP_small",
    "map_medium": "AP_medium",
    "map_large": "AP_large",
}


def coco_metrics(records: Sequence[Record], truth: Sequence[Boxes], classes: Sequence[str]) -> dict[str, float]:
    """COCO's average precision.

    Args:
        records: "boxes" (n, 4) in pixels, "scores" and "labels" (n,) of each image.
        truth: Objects of each image, boxes in pixels.
        classes: Names.

    Returns:
        "map" (IoU 0.50 to 0.95), "map50", "map75", and by the area of the object's box "map_small" (< 32² pixels),
        "map_medium" and "map_large" (≥ 96²), in [0, 1]; −1 where there is no object of that size, NaN where there is
        none at all.
    """
    if all(bool(boxes.crowd.all()) for boxes in truth):
        return dict.fromkeys(_NAMES, float("nan"))
    annotations = [
        {"id": 0, "image_id": i, "category_id": int(label), "bbox": _xywh(box), "iscrowd": int(crowd)}
        for i, boxes in enumerate(truth)
        for box, label, crowd in zip(boxes.boxes.tolist(), boxes.labels, boxes.crowd, strict=True)
    ]
    for i, annotation in enumerate(annotations):
        annotation |= {"id": i + 1, "area": annotation["bbox"][2] * annotation["bbox"][3]}
    found = [
        {"image_id": i, "category_id": label, "bbox": _xywh(box), "score": score}
        for i, r in enumerate(records)
        for box, label, score in zip(r["boxes"], r["labels"], r["scores"], strict=True)
    ]
    if not found:  # the library refuses an empty list: one beside the image finds nothing either
        found = [{"image_id": 0, "category_id": 0, "bbox": [-2.0, -2.0, 1.0, 1.0], "score": 0.0}]
    document = {
        "images": [{"id": i, "width": r["size"][0], "height": r["size"][1]} for i, r in enumerate(records)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": annotations,
    }
    real = COCO(document)
    evaluation = COCOeval_faster(real, real.loadRes(found), "bbox", print_function=lambda *_: None)
    evaluation.run()
    return {name: float(evaluation.stats_as_dict[key]) for name, key in _NAMES.items()}


def match(record: Record, truth: Boxes) -> dict[str, Any]:
    """Decide at each of `THRESHOLDS` which detections of one image are right, by COCO's rules.

    Detections of a class take their turn by score; each gets the free object with the highest IoU. One that only
    meets a crowd counts neither way.

    Returns:
        "scores", "labels" of the detections, at most 100 a class and best first; "hits" and "ignored", one integer
        for each: bit i is set where it is right, or does not count, at threshold i; "objects", the number of objects
        of each class index.
    """
    order = np.argsort(-np.asarray(record["scores"], dtype=np.float64), kind="stable")
    labels = np.asarray(record["labels"], dtype=np.int64)[order]
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    order, labels = order[rank < _MOST], labels[rank < _MOST]
    found = torch.tensor(record["boxes"], dtype=torch.float64).reshape(-1, 4)[torch.from_numpy(order)]
    iou = _overlaps(found, truth)
    same = labels[:, None] == truth.labels.numpy()[None]
    hits, ignored = np.zeros(len(labels), dtype=np.int64), np.zeros(len(labels), dtype=np.int64)
    crowd = truth.crowd.numpy()
    close = np.flatnonzero((same & (iou >= THRESHOLDS[0] - 1e-10)).any(1))  # the others match nothing
    for bit, threshold in enumerate(THRESHOLDS):
        free = ~crowd
        for i in close:
            candidates = np.where(same[i] & free & (iou[i] >= threshold - 1e-10), iou[i], -1.0)
            best = len(candidates) - 1 - int(candidates[::-1].argmax())  # of equal ones the last, as COCO does
            if candidates[best] >= 0:
                free[best] = False
                hits[i] |= 1 << bit
            elif (same[i] & crowd & (iou[i] >= threshold - 1e-10)).any():
                ignored[i] |= 1 << bit
    objects = np.bincount(truth.labels.numpy()[~crowd]).tolist()
    scores = [record["scores"][i] for i in order]
    return {
        "scores": scores,
        "labels": labels.tolist(),
        "hits": hits.tolist(),
        "ignored": ignored.tolist(),
        "objects": {i: n for i, n in enumerate(objects) if n},
    }


def draw_segments(segments: Sequence[Any] | None, size: tuple[int, int], edge: int) -> Tensor:
    """Masks (n, edge, edge) uint8, 0 or 1, of an image's objects, letterboxed as the image of (width, height) is.

    ``segments`` as in `Boxes`; None for an image without objects.
    """
    width, height = size
    small = fitted(height, width, edge)
    out = torch.zeros(0 if segments is None else len(segments), edge, edge, dtype=torch.uint8)
    for i, segment in enumerate(() if segments is None else segments):
        runs = coco_mask.frPyObjects(segment, height, width)
        runs = coco_mask.merge(runs) if isinstance(runs, list) else runs
        mask = torch.from_numpy(coco_mask.decode(runs))
        out[i, : small[0], : small[1]] = F.interpolate(mask[None, None], small, mode="nearest-exact")[0, 0]
    return out


def _overlaps(found: Tensor, truth: Boxes) -> np.ndarray:
    """IoU (n, m); with a crowd, the share of the detection that lies in it."""
    real = truth.boxes.double()
    iou = box_iou(found, real)
    corner = torch.maximum(found[:, None, :2], real[None, :, :2])
    inside = (torch.minimum(found[:, None, 2:], real[None, :, 2:]) - corner).clamp(min=0).prod(2)
    share = inside / (found[:, 2:] - found[:, :2]).prod(1, keepdim=True).clamp(min=1e-12)
    return torch.where(truth.crowd[None], share, iou).numpy()


def _xywh(box: Sequence[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
