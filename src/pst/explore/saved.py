"""Folders of `save_pretrained` as a `Network`: classifiers, features, segmenters and detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, per_channel
from pst.data.images import centre_square
from pst.explore.networks import Found, Network, Seen, centred, square_of, to_tensor

_DETECTOR_EDGE, _SEGMENTER_EDGE = 640, 512  # at most, of models that take any size


class SavedNetwork(Network):
    """A folder of `save_pretrained`: classifier, feature extractor, segmenter or detector, as its config.json says.

    Raises:
        OSError: There is no such folder.
        ValueError: It holds none of these, or see `Network`.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        model: Any = _class_of(config, path).from_pretrained(path).eval()
        channels = getattr(model, "in_chans", config.get("in_channels", 3))
        if "kind" in config:
            channels = model.model.backbone.body.in_channels
        self.statistics, edge = _input_of(model, channels)
        super().__init__(model, edge, (), channels)
        self.background = config.get("kind") in ("faster_rcnn", "mask_rcnn")  # which is their label 0

    def see(self, image: Image.Image) -> Seen:
        """See `Network`; a classifier gets the middle of a picture."""
        if not hasattr(self.model, "forward_head"):
            return super().see(image)
        return centred(centre_square(to_tensor(image, self.channels), self.edge), self.edge)

    def forward(self, seen: Seen) -> Any:
        """See `Network`."""
        pixels = seen.pixels[None].float() / 255
        if self.statistics is not None:
            mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in self.statistics)
            pixels = (pixels - mean) / std
        with torch.inference_mode():
            return self.model(pixels if self.statistics is not None else list(pixels))

    def find(self, seen: Seen) -> Found:
        """See `Network`."""
        output = self.forward(seen)
        if isinstance(output, list) and isinstance(output[0], dict):
            found = output[0]
            return self.boxes(found["boxes"], found["scores"], found["labels"] - int(self.background))
        if isinstance(output, list):
            return Found(f"{len(output)} maps of features: this model names nothing")
        output = output[0] if isinstance(output, tuple) else output
        if output.ndim == 2:
            return self.scores(output[0].float().softmax(0))
        least = 0.5 if isinstance(self.model.activation, nn.Sigmoid) else 0.0
        return self.shares(_classes_of(output[0], least), seen.size)


def _classes_of(scores: Tensor, least: float) -> Tensor:
    """(S, S) class indices of (classes, S, S), or of what "argmax" made of them; an only class is 1 above ``least``."""
    if scores.ndim == 2:
        return scores.long()
    return scores.argmax(0) if len(scores) > 1 else (scores[0] > least).long()


def _class_of(config: dict[str, Any], path: Path) -> Any:
    if "kind" in config:
        from pst.integrations.torchvision import PSTDetector

        return PSTDetector
    if "encoder_name" in config:
        from pst.integrations.segmentation import PSTSegmenter

        return PSTSegmenter
    if "backbone" not in config:
        raise ValueError(f"{path} holds no model that save_pretrained of an adapter wrote")
    from pst.integrations.timm import PSTClassifier, PSTFeatures

    return PSTFeatures if "out_channels" in config else PSTClassifier


def _input_of(model: Any, channels: int) -> tuple[Any, int]:
    """Mean and deviation of its channels, None where it does that itself; and the side of its pictures."""
    if hasattr(model, "pretrained_cfg"):
        cfg = model.pretrained_cfg
        values = (cfg.get(name) or default for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
        size = cfg.get("input_size") or (3, 224, 224)
        return tuple(per_channel(v, channels) for v in values), int(size[-1])
    if hasattr(model, "encoder"):
        return (model.encoder.mean, model.encoder.std), _SEGMENTER_EDGE
    smallest = model.model.transform.min_size
    return None, square_of(min(smallest[-1], _DETECTOR_EDGE))
