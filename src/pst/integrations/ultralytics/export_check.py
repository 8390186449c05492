"""Running an exported YOLO model and comparing it with the model that it was made of."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from ultralytics.nn.modules.head import RTDETRDecoder

from pst.control import attention_layers
from pst.export.compare import Difference, compare
from pst.export.runtime import Run, load
from pst.integrations.ultralytics.export_write import Exported, first_tensor, open_model, raw_model
from pst.integrations.ultralytics.yolo import YOLO


def eager(model: str | Path | Any, exported: Exported, *, trust: bool = False) -> Run:
    """The model that ``exported`` was made of, each layer set as in it, as a function of a batch of images."""
    yolo = open_model(model, YOLO, trust=trust)
    layers = attention_layers(yolo.model)
    for name, settings in exported.settings.items():
        layers[name].settings = settings
    module = raw_model(yolo.model, exported.format)
    return lambda images: first_tensor(module(images))


def runner(exported: Exported, *, threads: int | None = None) -> Run:
    """`pst.export.load` of the file, with boxes in pixels."""
    run = load(exported.path, threads=threads, trust=True)  # it was just written
    if exported.format != "litert" or _is_classifier(exported):
        return run
    height, width = exported.size  # Ultralytics writes boxes for LiteRT as a share of the image
    pixels = torch.tensor([width, height, width, height]).view(1, 4, 1)

    def in_pixels(images: Tensor) -> Tensor:
        out = run(images)
        return torch.cat([out[:, :4] * pixels, out[:, 4:]], 1)

    return in_pixels


def images(exported: Exported, count: int = 2, seed: int = 0) -> list[tuple[Tensor]]:
    """Random batches that the export has not seen: of its size, and, where dynamic, of other sizes and batches too."""
    generator = torch.Generator().manual_seed(seed)
    height, width = exported.size
    channels, stride = exported.channels, exported.stride
    shapes = [(exported.batch, channels, height, width)] * count
    if exported.dynamic:
        other = exported.batch if exported.format == "pt2" else exported.batch + 1
        shapes += [
            (other, channels, height + stride, width + 2 * stride),
            (exported.batch, channels, height, width + stride),
        ]
    return [(torch.rand(shape, generator=generator),) for shape in shapes]


def verify(model: str | Path | Any, exported: Exported, *, trust: bool = False) -> Difference:
    """Run the file on `images` and compare with the model, in the form that the file has; ``trust`` as for `YOLO`.

    A file that holds the class of each pixel is compared as labels, see `pst.export.Difference`. RT-DETR's queries come
    in the order of their scores, where rounding decides between near-equal ones: each is compared with its nearest.

    Raises:
        ValueError: It cannot be run here, or its output is of another shape or not finite.
    """
    want, got = eager(model, exported, trust=trust), runner(exported)
    if isinstance(open_model(model, YOLO, trust=trust).model.model[-1], RTDETRDecoder):
        return compare(want, lambda x: nearest_queries(want(x), got(x)), images(exported))
    return compare(want, got, images(exported), labels=exported.class_map)


def nearest_queries(want: Tensor, got: Tensor) -> Tensor:
    """``got`` in another order, so that its queries lie nearest to those of ``want``, one to one; both (B, n, C)."""
    if want.shape != got.shape:
        return got
    pairs = [linear_sum_assignment(torch.cdist(a, b, p=1).numpy())[1] for a, b in zip(want, got, strict=True)]
    return torch.stack([b[torch.from_numpy(order)] for b, order in zip(got, pairs, strict=True)])


def agreement(want: Tensor, got: Tensor, *, iou: float = 0.9, conf: float = 0.25) -> tuple[int, int]:
    """How many detections of ``want`` ``got`` has too, of the same class and at IoU ≥ ``iou``; and how many there are.

    Args:
        want: Raw output of a detector, (B, 4 + classes, anchors), boxes as (x, y, w, h).
        got: The same from the exported file.
        iou: Overlap that counts as the same box.
        conf: Least score of a detection.

    Returns:
        (found, detections), a detection of ``got`` that ``want`` lacks counting among the detections.
    """
    from torchvision.ops import box_iou
    from ultralytics.utils.nms import non_max_suppression

    found = total = 0
    pairs = zip(*(non_max_suppression(t.clone(), conf_thres=conf, iou_thres=0.7) for t in (want, got)), strict=True)
    for a, b in pairs:
        same = (box_iou(a[:, :4], b[:, :4]) >= iou) & (a[:, 5, None] == b[None, :, 5])
        matched = min(int(same.any(1).sum()), int(same.any(0).sum())) if same.numel() else 0
        found += matched
        total += len(a) + len(b) - matched
    return found, total


def _is_classifier(exported: Exported) -> bool:
    with zipfile.ZipFile(exported.path) as archive:
        return json.loads(archive.read("metadata.json"))["task"] == "classify"
