"""Detectors with plain tensors in and out, for exporters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN


class Detections(nn.Module):
    """A detector as a function of one image; what `pst.export.to_onnx` can trace, NMS included.

    As with torchvision's own detectors, ``torch.export`` (and so the newer ONNX exporter) refuses the result: how many
    boxes NMS keeps depends on the data. `RawHeads` is for those.

    Args:
        model: One of torchvision's detectors; shared, not copied.

    Examples:
        >>> from pst.integrations.torchvision import fcos
        >>> detections = Detections(fcos("resnet18", 3, min_size=64, max_size=64)).eval()
        >>> boxes, scores, labels = detections(torch.rand(1, 3, 64, 64))
        >>> boxes.shape[1]
        4
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W) in 0…1 -> boxes (n, 4), x1 y1 x2 y2 in pixels, scores (n), labels (n), masks (n, 1, H, W)."""
        found = self.model([image[0]])[0]
        return tuple(found[name] for name in ("boxes", "scores", "labels", "masks") if name in found)


class RawHeads(nn.Module):
    """A detector's network alone: no resizing, no decoding of boxes, no NMS; exports with any exporter.

    Args:
        model: torchvision's RetinaNet, FCOS, FasterRCNN or MaskRCNN; shared, not copied.

    Attributes:
        output_names: Of the tensors that come out.

    Raises:
        TypeError: ``model`` is no such detector.

    Examples:
        >>> from pst.integrations.torchvision import fcos
        >>> heads = RawHeads(fcos("resnet18", 3, min_size=64, max_size=64)).eval()
        >>> dict(zip(heads.output_names, (tuple(y.shape) for y in heads(torch.rand(1, 3, 64, 64)))))
        {...'cls_logits': (1, ...
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not isinstance(model, (FCOS, RetinaNet, GeneralizedRCNN)):
            raise TypeError(
                f"expected a torchvision RetinaNet, FCOS, FasterRCNN or MaskRCNN, got {type(model).__name__}"
            )
        self.backbone: Any = model.backbone
        self.one_stage = not isinstance(model, GeneralizedRCNN)
        self.head: Any = model.rpn.head if isinstance(model, GeneralizedRCNN) else model.head
        self.register_buffer("mean", torch.tensor(model.transform.image_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(model.transform.image_std).view(-1, 1, 1), persistent=False)
        names = ["cls_logits", "bbox_regression"]
        if isinstance(model, FCOS):
            names.append("bbox_ctrness")
        self.output_names = names if self.one_stage else ["objectness", "rpn_regression"]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) in 0…1, H and W the size to run at.

        Returns:
            One stage: the head's tensors (B, anchors, …), levels one after another, finest first. Two stages:
            objectness (B, anchors) and regression (B, anchors, 4) of the proposals, in the order of the anchors.
        """
        maps = list(self.backbone((images - self.mean) / self.std).values())
        if self.one_stage:
            found = self.head(maps)
            return tuple(found[name] for name in self.output_names)
        objectness, regression = self.head(maps)
        regression = [y.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for y in regression]
        return torch.cat([y.permute(0, 2, 3, 1).flatten(1) for y in objectness], 1), torch.cat(regression, 1)
