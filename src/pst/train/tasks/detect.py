"""Detection with the builders of `pst.integrations.torchvision`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image
from typing_extensions import override

from pst.backbones.channels import per_channel
from pst.data.dataset import Batch
from pst.data.detection import read_boxes
from pst.data.images import Boxes, Sample, Split, decode, letterbox
from pst.train import augment
from pst.train.config import DetectConfig
from pst.train.tasks.base import Record, Task
from pst.train.tasks.detection_metrics import coco_metrics, draw_segments, match

_LOG = logging.getLogger(__name__)
_LEAST_SHARE = 0.25  # of a box that must be left of it in an augmented image
_TWO_STAGE = ("faster_rcnn", "mask_rcnn")  # for these, label 0 is the background


class Detect(Task[DetectConfig]):
    """YOLO or COCO data in, boxes out, metrics in pixels of the files. Images are letterboxed to ``imgsz``."""

    metric = "map"

    @property
    def _first(self) -> int:
        """Torchvision's label of class 0."""
        return int(self.config.model in _TWO_STAGE)

    @override
    def read(self, name: str) -> Split:
        segments = name == "train" and self.config.model == "mask_rcnn"
        return read_boxes(self.config.data, name, getattr(self, "classes", None), segments=segments)

    @override
    def check(self, split: str, targets: Sequence[Boxes]) -> None:
        shown = {label for target in targets for label in target.labels[~target.crowd].tolist()}
        missing = [name for i, name in enumerate(self.classes) if i not in shown]
        if split == "train" and missing:
            raise ValueError(f"no training image that can be decoded shows: {', '.join(missing)}")
        if not shown:
            _LOG.warning("no image of %s, %s, shows an object: there is no metric", self.config.data, split)

    @override
    def loader(self, split: Split, *, train: bool) -> Callable[[int], Sample]:
        return partial(self._load, split, with_masks=train and self.config.model == "mask_rcnn")

    def _load(self, split: Split, i: int, *, with_masks: bool) -> Sample:
        image = decode(split.images[i], channels=self.config.in_chans)
        size, boxes = (image.shape[2], image.shape[1]), split.targets[i]
        if boxes.size not in (None, size):
            raise ValueError(
                f"{split.images[i]} is {size[0]}×{size[1]}, upright by its EXIF orientation, its annotations say "
                f"{boxes.size[0]}×{boxes.size[1]}: correct their width and height, or the image"
            )
        shares = boxes.boxes * torch.tensor(size * 2) / max(size)  # of the squared image
        target = {"boxes": shares, "labels": boxes.labels, "crowd": boxes.crowd}
        if with_masks:
            target["masks"] = draw_segments(boxes.segments, size, self.config.imgsz)
        return Sample(self.square(image), target, size)

    @override
    def square(self, image: Tensor) -> Tensor:
        return letterbox(image, self.config.imgsz)

    @override
    def build(self, *, pretrained: bool, backbone_weights: str | None = None) -> nn.Module:
        from pst.integrations import torchvision as builders

        c = self.config
        size = {"min_size": c.imgsz, "max_size": c.imgsz}
        start = {"pretrained": pretrained, "backbone_weights": backbone_weights}
        given = {"image_mean": c.mean, "image_std": c.std}
        given = {key: list(per_channel(values, c.in_chans)) for key, values in given.items() if values is not None}
        options = {**start, "finest": c.finest, **size, **given, **c.model_args}
        options["backbone_options"] = {"in_channels": c.in_chans, **options.get("backbone_options", {})}
        return getattr(builders, c.model)(c.backbone, len(self.classes) + self._first, neck=c.neck, **options)

    @override
    def statistics(self, model: Any) -> tuple[Sequence[float], Sequence[float]]:
        return model.transform.image_mean, model.transform.image_std

    @override
    def augment(self, batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        c = self.config
        images, windows, flip = augment.zoomed(batch, c.zoom, c.imgsz)
        moved = [self._moved(t, w, f) for t, w, f in zip(batch.targets, windows, flip, strict=True)]
        targets = [{k: v.to(images.device, non_blocking=True) for k, v in target.items()} for target in moved]
        return list(augment.jitter(images / 255, c.jitter)), targets

    def _moved(self, target: dict[str, Tensor], window: Tensor, flip: Tensor) -> dict[str, Tensor]:
        """Targets of an augmented image, in pixels, with torchvision's labels and without crowds; on the CPU."""
        edge = self.config.imgsz
        moved = augment.move_boxes(target["boxes"], window, bool(flip), edge)
        clipped = clip_boxes_to_image(moved, (edge, edge))
        size = clipped[:, 2:] - clipped[:, :2]
        keep = (size > 1).all(1) & (size.prod(1) >= _LEAST_SHARE * (moved[:, 2:] - moved[:, :2]).prod(1))
        keep &= ~target["crowd"]
        out = {"boxes": clipped[keep], "labels": target["labels"][keep] + self._first}
        if "masks" in target:
            masks = target["masks"][keep][:, None].float()
            if count := len(masks):
                windows, flips = window.expand(count, 4), flip.expand(count)
                masks = augment.sample(masks, windows, flips, edge, mode="nearest", fill=0)
            out["masks"] = masks[:, 0].to(torch.uint8)
        return out

    @override
    def losses(self, model: nn.Module, inputs: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return model(inputs, targets)

    @override
    def inputs(self, images: Tensor) -> list[Tensor]:
        return list(images.float() / 255)

    @override
    def predictions(self, output: list[dict[str, Tensor]], sizes: Tensor) -> list[Record]:
        predictions = []
        for found, (width, height) in zip(output, sizes.tolist(), strict=True):
            boxes = found["boxes"].float() * (max(width, height) / self.config.imgsz)
            prediction = {
                "size": (width, height),
                "boxes": clip_boxes_to_image(boxes, (height, width)).tolist(),
                "scores": found["scores"].float().tolist(),
                "labels": (found["labels"] - self._first).tolist(),
            }
            predictions.append(prediction)
        return predictions

    @override
    def records(self, output: list[dict[str, Tensor]], batch: Batch) -> list[Record]:
        found = zip(batch.indices.tolist(), self.predictions(output, batch.sizes), strict=True)
        return [{"index": i, **prediction} for i, prediction in found]

    @override
    def metrics(self, records: Sequence[Record], split: Split) -> dict[str, float]:
        return coco_metrics(records, [_in_pixels(r, split) for r in records], self.classes)

    @override
    def columns(self, records: Sequence[Record], split: Split) -> dict[str, list[Any]]:
        matched = [match(r, _in_pixels(r, split)) for r in records]
        return {name: [row[name] for row in matched] for name in matched[0]}


def _in_pixels(record: Record, split: Split) -> Boxes:
    """The truth of a record's image, in pixels of the file."""
    truth: Boxes = split.targets[record["index"]]
    return truth._replace(boxes=truth.boxes * torch.tensor(record["size"] * 2))
