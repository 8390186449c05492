"""Semantic segmentation with `pst.integrations.segmentation`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix
from typing_extensions import override

from pst.data.dataset import Batch
from pst.data.images import Sample, Split, decode, fitted, letterbox
from pst.data.masks import IGNORE, read_mask, read_masks, values_in
from pst.io.names import listed
from pst.train import augment
from pst.train.config import SegmentConfig
from pst.train.tasks.base import Record, Task

_LOG = logging.getLogger(__name__)
_AT_ONCE = 64  # masks that are read before it is asked whether more are needed
_MOST_SCORES = 1 << 24  # that are held at once when a prediction is enlarged


class Segment(Task[SegmentConfig]):
    """Images and masks in, a class for every pixel out.

    Image and mask are letterboxed to ``imgsz``, and the metrics are computed there, over pixels of the picture.
    """

    metric = "miou"

    @override
    def read(self, name: str) -> Split:
        return read_masks(self.config.data, name)

    @override
    def check(self, split: str, targets: Sequence[Path]) -> None:
        c, count = self.config, len(self.classes)
        if split == "train" and count == 1:
            raise ValueError(f"{c.data} has one class, {self.classes[0]}: name what lies around it a class as well")
        if not (c.check_images or c.cache == "ram"):
            return
        if split == "train":
            missing = set(range(count)) - _values(targets, count, set(range(count)))
            if missing:
                names = listed([self.classes[i] for i in sorted(missing)])
                raise ValueError(
                    f"no training mask of {c.data} has a pixel of: {names}. A pixel's value is the index of its class, "
                    f"{IGNORE} is unlabelled: correct the masks, or remove the class and count those after it anew."
                )
        elif not _values(targets, count, None) - {IGNORE}:
            _LOG.warning("no mask of %s, %s, has a labelled pixel: there is no metric", c.data, split)

    @override
    def loader(self, split: Split, *, train: bool) -> Callable[[int], Sample]:
        del train
        return partial(self._load, split)

    def _load(self, split: Split, i: int) -> Sample:
        edge, classes = self.config.imgsz, len(split.classes)
        image = decode(split.images[i], channels=self.config.in_chans)
        mask = read_mask(split.targets[i], classes)
        if mask.shape != image.shape[1:]:
            own, wanted = (f"{size[1]}×{size[0]}" for size in (mask.shape, image.shape[1:]))
            raise ValueError(f"{split.targets[i]} is {own}, its image {wanted}: expected one size")
        height, width = fitted(mask.shape[0], mask.shape[1], edge)
        target = torch.full((edge, edge), IGNORE, dtype=torch.uint8)
        target[:height, :width] = F.interpolate(mask[None, None], (height, width), mode="nearest-exact")[0, 0]
        return Sample(self.square(image), target, (image.shape[2], image.shape[1]))

    @override
    def square(self, image: Tensor) -> Tensor:
        return letterbox(image, self.config.imgsz)

    @override
    def build(self, *, pretrained: bool, backbone_weights: str | None = None) -> nn.Module:
        from pst.integrations.segmentation import PSTSegmenter

        c = self.config
        weights = "imagenet" if pretrained else None
        options = {"backbone_weights": backbone_weights, "neck": c.neck, "finest": c.finest, **c.model_args}
        options["encoder_options"] = {"mean": c.mean, "std": c.std, **options.get("encoder_options", {})}
        model = PSTSegmenter(c.encoder, weights, c.in_chans, classes=len(self.classes), **options)
        self.normalise_for(model)
        return model

    @override
    def statistics(self, model: Any) -> tuple[Sequence[float], Sequence[float]]:
        return model.encoder.mean, model.encoder.std

    @override
    def augment(self, batch: Batch) -> tuple[Tensor, Tensor]:
        c = self.config
        images, windows, flip = augment.zoomed(batch, c.zoom, c.imgsz)
        masks = batch.targets[:, None].float()
        masks = augment.sample(masks, windows, flip, c.imgsz, mode="nearest", fill=IGNORE)
        return self.normalised(255 * augment.jitter(images / 255, c.jitter)), masks[:, 0].round().long()

    @override
    def losses(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        total = F.cross_entropy(model(inputs).float(), targets, ignore_index=IGNORE, reduction="sum")
        return {"pixels": total / (targets != IGNORE).sum().clamp(min=1)}

    @override
    def inputs(self, images: Tensor) -> Tensor:
        return self.normalised(images.float())

    @override
    def predictions(self, output: Tensor, sizes: Tensor) -> list[Record]:
        return [{"mask": self._at_full_size(*each)} for each in zip(output, sizes.tolist(), strict=True)]

    def _at_full_size(self, scores: Tensor, size: Sequence[int]) -> Tensor:
        """Class indices (H, W) uint8 on the CPU for (classes, S, S)."""
        width, height = size
        rows, columns = fitted(height, width, self.config.imgsz)
        return classes_at(scores[:, :rows, :columns].float(), height, width)

    @override
    def records(self, output: Tensor, batch: Batch) -> list[Record]:
        predicted, count = output.argmax(1), len(self.classes)
        return [
            {
                "index": int(i),
                "confusion": multiclass_confusion_matrix(
                    p, target.long(), num_classes=count, ignore_index=IGNORE
                ).tolist(),
            }
            for i, p, target in zip(batch.indices, predicted, batch.targets, strict=True)
        ]

    @override
    def metrics(self, records: Sequence[Record], split: Split) -> dict[str, float]:
        confusion = torch.tensor([record["confusion"] for record in records], dtype=torch.float64).sum(0)
        iou = class_iou(confusion)
        found = {name: value for name, value in zip(self.classes, iou.tolist(), strict=True) if not math.isnan(value)}
        return {
            "miou": float(iou.nanmean()),
            "accuracy": float(confusion.diag().sum() / confusion.sum()),
            **{f"iou_{name}": value for name, value in found.items()},
        }

    @override
    def columns(self, records: Sequence[Record], split: Split) -> dict[str, list[Any]]:
        return {"confusion": [record["confusion"] for record in records]}


def class_iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class: pixels that are of it and were given to it, over those that are or were.

    Args:
        confusion: (..., C, C) float, pixels of each true class (row) given to each class (column).

    Returns:
        (..., C) in [0, 1]; NaN for a class that does not occur in the truth.
    """
    hit, real, found = confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)
    return (hit / (real + found - hit)).where(real > 0, float("nan"))


def classes_at(scores: Tensor, height: int, width: int) -> Tensor:
    """The best class of every pixel, (height, width) uint8 on the CPU, once scores (classes, H, W) are resized.

    A few rows at a time: large photos have many pixels.
    """
    rows = scores.shape[1]
    y = ((torch.arange(height, device=scores.device) + 0.5) * (rows / height) - 0.5).clamp(0, rows - 1)
    above, below = y.floor().long(), y.ceil().long()
    share = (y - above)[:, None]
    out, step = torch.empty(height, width, dtype=torch.uint8), max(1, _MOST_SCORES // (len(scores) * width))
    for first in range(0, height, step):
        part = slice(first, first + step)
        mixed = torch.lerp(scores[:, above[part]], scores[:, below[part]], share[part])
        out[part] = F.interpolate(mixed, width, mode="linear").argmax(0).to(torch.uint8).cpu()
    return out


def _values(masks: Sequence[Path], classes: int, wanted: set[int] | None) -> set[int]:
    """Values in the masks; the search ends when all of ``wanted``, or one class where that is None, were seen."""
    seen: set[int] = set()
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(masks), _AT_ONCE):
            for mask in pool.map(lambda file: read_mask(file, classes), masks[first : first + _AT_ONCE]):
                seen |= set(values_in(mask))
            if seen >= wanted if wanted is not None else seen - {IGNORE}:
                break
    return seen
