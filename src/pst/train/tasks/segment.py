"""Semantic segmentation with `pst.integrations.segmentation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix
from typing_extensions import override

from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, per_channel
from pst.data.dataset import Batch
from pst.data.images import GREY, Sample, Split, decode, fitted, letterbox
from pst.data.masks import IGNORE, read_mask, read_masks
from pst.train import augment
from pst.train.config import SegmentConfig
from pst.train.tasks.base import Record, Task


class Segment(Task[SegmentConfig]):
    """Images and masks in, a class for every pixel out.

    Image and mask are letterboxed to ``imgsz``, and the metrics are computed there, over pixels of the picture.
    """

    metric = "miou"

    @override
    def read(self, name: str) -> Split:
        return read_masks(self.config.data, name)

    @override
    def loader(self, split: Split, *, train: bool) -> Callable[[int], Sample]:
        edge, classes = self.config.imgsz, len(split.classes)

        def load(i: int) -> Sample:
            image = decode(split.images[i], channels=self.config.in_chans)
            mask = read_mask(split.targets[i], classes)
            if mask.shape != image.shape[1:]:
                raise ValueError(
                    f"{split.targets[i]} is {tuple(mask.shape)}, its image {tuple(image.shape[1:])}: expected one size"
                )
            height, width = fitted(mask.shape[0], mask.shape[1], edge)
            target = torch.full((edge, edge), IGNORE, dtype=torch.uint8)
            target[:height, :width] = F.interpolate(mask[None, None], (height, width), mode="nearest-exact")[0, 0]
            return Sample(self.square(image), target, (image.shape[2], image.shape[1]))

        return load

    @override
    def square(self, image: Tensor) -> Tensor:
        return letterbox(image, self.config.imgsz)

    @override
    def build(self, *, pretrained: bool) -> nn.Module:
        from pst.integrations.segmentation import PSTSegmenter

        c = self.config
        weights = "imagenet" if pretrained else None
        options = {"classes": len(self.classes), "neck": c.neck, **c.model_args}
        return PSTSegmenter(c.encoder, weights, c.in_chans, **options)

    @override
    def augment(self, batch: Batch) -> tuple[Tensor, Tensor]:
        c = self.config
        sizes = batch.sizes.cpu().float()
        windows = augment.zoom_windows(sizes / sizes.amax(1, keepdim=True), c.zoom)
        flip = augment.flips(len(sizes))
        images = augment.sample(batch.images.float(), windows, flip, c.imgsz, fill=GREY)
        masks = batch.targets[:, None].float()
        masks = augment.sample(masks, windows, flip, c.imgsz, mode="nearest", fill=IGNORE)
        return _normalised(255 * augment.jitter(images / 255, c.jitter)), masks[:, 0].round().long()

    @override
    def losses(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        total = F.cross_entropy(model(inputs).float(), targets, ignore_index=IGNORE, reduction="sum")
        return {"pixels": total / (targets != IGNORE).sum().clamp(min=1)}

    @override
    def inputs(self, images: Tensor) -> Tensor:
        return _normalised(images.float())

    @override
    def predictions(self, output: Tensor, sizes: Tensor) -> list[Record]:
        return [{"mask": self._at_full_size(*each)} for each in zip(output, sizes.tolist(), strict=True)]

    def _at_full_size(self, scores: Tensor, size: Sequence[int]) -> Tensor:
        """Class indices (H, W) uint8 on the CPU for (classes, S, S)."""
        width, height = size
        rows, columns = fitted(height, width, self.config.imgsz)
        scores = scores[None, :, :rows, :columns].float()
        return F.interpolate(scores, (height, width), mode="bilinear")[0].argmax(0).to(torch.uint8).cpu()

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
        hit, real, found = confusion.diag(), confusion.sum(1), confusion.sum(0)
        present = real > 0
        iou = hit[present] / (real + found - hit)[present]
        names = [name for name, here in zip(self.classes, present.tolist(), strict=True) if here]
        return {
            "miou": float(iou.mean()),
            "accuracy": float(hit.sum() / confusion.sum()),
            **{f"iou_{name}": value for name, value in zip(names, iou.tolist(), strict=True)},
        }

    @override
    def columns(self, records: Sequence[Record], split: Split) -> dict[str, list[Any]]:
        return {"confusion": [record["confusion"] for record in records]}


def _normalised(images: Tensor) -> Tensor:
    """From values 0 to 255 to those that backbones expect."""
    channels = images.shape[1]
    mean, std = (
        images.new_tensor([255 * value for value in per_channel(values, channels)]).view(-1, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean) / std
