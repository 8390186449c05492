"""Models of each adapter as a `Network`: of Ultralytics, of `pst train`, and folders of `save_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, per_channel
from pst.data.images import centre_square
from pst.explore.networks import NOTHING, SCORE, Found, Network, Seen, centred, to_tensor

_MULTIPLE, _LARGEST = 32, 1280  # of the sides of squares
_DETECTOR_EDGE, _SEGMENTER_EDGE = 640, 512  # at most, of models that take any size


class YOLONetwork(Network):
    """A checkpoint of Ultralytics; nothing in it is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or see `Network`.
    """

    def __init__(self, path: Path) -> None:
        from pst.integrations.ultralytics import YOLO

        yolo: Any = YOLO(path)
        names, args = yolo.names, yolo.model.args
        edge = args.get("imgsz") if isinstance(args, dict) else None
        channels = yolo.model.yaml.get("channels", 3)
        super().__init__(
            yolo, _square(edge if isinstance(edge, int) else 640), [names[i] for i in sorted(names)], channels
        )

    def forward(self, seen: Seen) -> Any:
        """See `Network`."""
        with torch.inference_mode():
            return self.module(seen.pixels[None].float() / 255)

    def find(self, seen: Seen) -> Found:
        """See `Network`."""
        options = {"imgsz": self.edge, "conf": SCORE, "device": "cpu", "verbose": False, "save": False}
        given = seen.square if self.channels == 3 else seen.pixels.permute(1, 2, 0).numpy()
        (result,) = self.model.predict(given, **options)
        if result.probs is not None:
            return self.scores(result.probs.data.float())
        boxes = result.boxes if result.boxes is not None else result.obb
        if boxes is None:
            return Found("no boxes, no classes")
        found = self.boxes(boxes.xyxy.cpu(), boxes.conf.cpu(), boxes.cls.cpu())
        return found if result.masks is None else found._replace(mask=self._objects(result))

    def _objects(self, result: Any) -> Any:
        """(S, S): the class of the object at each pixel, `NOTHING` where there is none."""
        out = torch.full((self.edge, self.edge), NOTHING, dtype=torch.uint8)
        masks = F.interpolate(result.masks.data.cpu().float()[None], (self.edge, self.edge))[0]
        for mask, label in zip(masks, result.boxes.cls.cpu().tolist(), strict=True):
            out[mask > 0.5] = int(label) % NOTHING
        return out.numpy()


class TaskNetwork(Network):
    """A run folder of `pst train`, or a weights file of one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It was not written by `pst train`, or see `Network`.
    """

    def __init__(self, path: Path) -> None:
        from pst.train.models import load_trained

        self.task, model = load_trained(path, device="cpu", workers=0)
        c = self.task.config
        super().__init__(model, c.imgsz, self.task.classes, c.in_chans)

    def see(self, image: Image.Image) -> Seen:
        """See `Network`; a classifier gets the middle of a picture."""
        if self.task.config.task != "classify":
            return super().see(image)
        return centred(self.task.square(to_tensor(image, self.channels)), self.edge)

    def forward(self, seen: Seen) -> Any:
        """See `Network`."""
        with torch.inference_mode():
            return self.model(self.task.inputs(seen.pixels[None]))

    def find(self, seen: Seen) -> Found:
        """See `Network`."""
        found = self.task.predictions(self.forward(seen), torch.tensor([[self.edge, self.edge]]))[0]
        if "mask" in found:
            return self.shares(found["mask"], seen.size)
        if "boxes" not in found:
            return self.scores(torch.tensor(found["scores"]))
        boxes = torch.tensor(found["boxes"], dtype=torch.float32).view(-1, 4)
        return self.boxes(boxes, torch.tensor(found["scores"]), torch.tensor(found["labels"]))


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
        return tuple(per_channel(v, channels) for v in (IMAGENET_MEAN, IMAGENET_STD)), _SEGMENTER_EDGE
    smallest = model.model.transform.min_size
    return None, _square(min(smallest[-1], _DETECTOR_EDGE))


def _square(edge: int) -> int:
    """The nearest side that every stride divides."""
    return min(_LARGEST, max(_MULTIPLE, round(edge / _MULTIPLE) * _MULTIPLE))
