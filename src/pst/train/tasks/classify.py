"""Classification with any timm model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import timm
import torch
from timm.data import Mixup, resolve_model_data_config
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score
from typing_extensions import override

from pst.data.dataset import Batch
from pst.data.folder import read_folder
from pst.data.images import Sample, Split, centre_square, decode
from pst.io.names import listed
from pst.train import augment
from pst.train.config import ClassifyConfig
from pst.train.tasks.base import Record, Task

_LOG = logging.getLogger(__name__)
_CROP_SHARE = 0.875  # of the stored edge that validation keeps, as in timm


class Classify(Task[ClassifyConfig]):
    """ImageFolder in, class scores out. Images are stored as squares: their centre, 1/0.875 times ``imgsz`` wide."""

    metric = "top1"

    @override
    def read(self, name: str) -> Split:
        return read_folder(self.config.data, name, getattr(self, "classes", None))

    @override
    def check(self, split: str, targets: Sequence[int]) -> None:
        if len(self.classes) == 1:
            _LOG.warning("%s has one class, %s: every answer is right", self.config.data, self.classes[0])
        missing = [name for i, name in enumerate(self.classes) if i not in set(targets)]
        if split == "train" and missing:
            raise ValueError(f"no training image that can be decoded shows: {listed(missing)}")

    @override
    def loader(self, split: Split, *, train: bool) -> Callable[[int], Sample]:
        del train
        return partial(self._load, split)

    def _load(self, split: Split, i: int) -> Sample:
        image = decode(split.images[i], channels=self.config.in_chans)
        return Sample(self.square(image), split.targets[i], (image.shape[2], image.shape[1]))

    @override
    def square(self, image: Tensor) -> Tensor:
        return centre_square(image, round(self.config.imgsz / _CROP_SHARE))

    @override
    def build(self, *, pretrained: bool, backbone_weights: str | None = None) -> nn.Module:
        del backbone_weights  # no setting of this task
        import_module("pst.integrations.timm")  # registers the pst_… models
        c = self.config
        classes, options = len(self.classes), c.model_args
        model = timm.create_model(c.model, pretrained, num_classes=classes, in_chans=c.in_chans, **options)
        self.normalise_for(model)
        self._mix = Mixup(c.mixup, c.cutmix, label_smoothing=c.smoothing, num_classes=len(self.classes))
        return model

    @override
    def statistics(self, model: Any) -> tuple[Sequence[float], Sequence[float]]:
        data = resolve_model_data_config(model)
        return data["mean"], data["std"]

    @override
    def augment(self, batch: Batch) -> tuple[Tensor, Tensor]:
        windows = augment.crop_windows(len(batch.images), self.config.crop_scale)
        flip = augment.flips(len(batch.images))
        images = augment.sample(batch.images.float(), windows, flip, self.config.imgsz, fill=0)
        images = self.normalised(images)
        if self._mix.mixup_enabled and (self.config.mixup > 0 or self.config.cutmix > 0):
            return self._mix(images, batch.targets)
        return images, batch.targets

    @override
    def losses(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        soft = targets.is_floating_point()
        criterion = SoftTargetCrossEntropy() if soft else LabelSmoothingCrossEntropy(self.config.smoothing)
        return {"classes": criterion(model(inputs).float(), targets)}

    @override
    def inputs(self, images: Tensor) -> Tensor:
        first = (images.shape[-1] - self.config.imgsz) // 2
        last = first + self.config.imgsz
        return self.normalised(images[..., first:last, first:last].float())

    @override
    def predictions(self, output: Tensor, sizes: Tensor) -> list[Record]:
        return [{"scores": row} for row in output.float().softmax(1).tolist()]

    @override
    def records(self, output: Tensor, batch: Batch) -> list[Record]:
        found = zip(batch.indices.tolist(), batch.targets.tolist(), self.predictions(output, batch.sizes), strict=True)
        return [{"index": i, "target": target, **prediction} for i, target, prediction in found]

    @override
    def metrics(self, records: Sequence[Record], split: Split) -> dict[str, float]:
        scores = torch.tensor([record["scores"] for record in records])
        targets = torch.tensor([record["target"] for record in records])
        count = len(self.classes)
        if count == 1:  # which torchmetrics refuses
            return dict.fromkeys(("top1", "top5", "f1"), 1.0)
        shared: dict[str, Any] = {"num_classes": count}
        return {
            "top1": float(multiclass_accuracy(scores, targets, average="micro", **shared)),
            "top5": float(multiclass_accuracy(scores, targets, average="micro", top_k=min(5, count), **shared)),
            "f1": float(multiclass_f1_score(scores, targets, average="macro", **shared)),
        }

    @override
    def columns(self, records: Sequence[Record], split: Split) -> dict[str, list[Any]]:
        predicted = [max(range(len(self.classes)), key=record["scores"].__getitem__) for record in records]
        targets = [record["target"] for record in records]
        return {
            "target": targets,
            "predicted": predicted,
            "correct": [int(p == t) for p, t in zip(predicted, targets, strict=True)],
        }
