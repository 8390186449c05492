"""Parameters and operations of torchvision's detectors, with a PST pyramid and with torchvision's FPN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pst.integrations.torchvision.detectors import faster_rcnn, fcos, mask_rcnn, retinanet
from pst.integrations.torchvision.outputs import RawHeads
from pst.profile.flops import ModelSize, count_flops

_BUILDERS: Mapping[str, Callable[..., Any]] = {
    "fcos": fcos,
    "retinanet": retinanet,
    "faster_rcnn": faster_rcnn,
    "mask_rcnn": mask_rcnn,
}
USUAL = ("fcos_resnet18", "fcos_resnet50", "retinanet_resnet50", "faster_rcnn_resnet50")


def measure(name: str, image_size: tuple[int, int] = (640, 640), **options: Any) -> ModelSize:
    """Build a detector of 91 classes, COCO's numbers, without weights and count; nothing is computed.

    Args:
        name: Builder and backbone, e.g. "fcos_resnet18"; with "pst_" before it the one with PST, else with an FPN.
        image_size: (height, width) in pixels.
        options: Passed to the builder.

    Returns:
        Parameters of the whole detector. Operations of backbone, neck and dense heads: how many boxes go into the
        second stage of a Faster or Mask R-CNN depends on the image.

    Raises:
        ValueError: There is no such detector or backbone.
    """
    plain = name.removeprefix("pst_")
    kind = next((kind for kind in _BUILDERS if plain.startswith(f"{kind}_")), None)
    if kind is None:
        raise ValueError(f"no detector {name!r}: give one of {', '.join(_BUILDERS)} and a backbone, as in {USUAL[0]!r}")
    neck = "fpn" if plain == name else "pst"
    with torch.device("meta"):
        model = _BUILDERS[kind](plain.removeprefix(f"{kind}_"), 91, neck=neck, **options)
        heads = RawHeads(model).eval()
        images = torch.empty(1, 3, *image_size)
    parameters = sum(p.numel() for p in model.parameters())
    return ModelSize(name, parameters, count_flops(heads, images) / 1e9, image_size)
