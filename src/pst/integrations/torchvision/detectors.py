"""torchvision's four detectors on any backbone, with their usual neck, a PST pyramid or none."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from pst.backbones import Library, Name, Weights
from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, check_statistics, per_channel
from pst.integrations.torchvision.backbone import PyramidBackbone, pst_backbone
from pst.io.names import nearest
from pst.modules.necks import Neck

DEFAULTS = {
    "neck": "fpn",
    "library": "timm",
    "pretrained": False,
    "backbone_weights": None,
    "finest": None,
    "topk": 0,
    "backbone_options": None,
}
ONE_STAGE = {"finest": 8, "extra_levels": "p6p7"}
TWO_STAGE = {"finest": 4, "extra_levels": "pool"}


def anchors(
    backbone: PyramidBackbone, *, scale: float, octaves: int = 1, ratios: Sequence[float] = (0.5, 1.0, 2.0)
) -> AnchorGenerator:
    """Anchors whose sides grow with each level's reduction.

    Args:
        backbone: Its ``reductions`` say which levels there are.
        scale: Side of a level's smallest anchor as a multiple of the level's reduction.
        octaves: Anchors per doubling of the side.
        ratios: Height by width.

    Returns:
        A generator of sides ``int(scale · reduction · 2^(i/octaves))``, i < octaves, in pixels of the resized image.
    """
    sizes = tuple(tuple(int(scale * r * 2 ** (i / octaves)) for i in range(octaves)) for r in backbone.reductions)
    return AnchorGenerator(sizes, (tuple(ratios),) * len(sizes))


def retinanet(
    backbone: Name | PyramidBackbone,
    num_classes: int,
    *,
    neck: Neck = "fpn",
    library: Library = "timm",
    pretrained: bool | str = False,
    backbone_weights: Weights | None = None,
    finest: int | None = None,
    topk: int | Sequence[int] = 0,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> RetinaNet:
    """RetinaNet (arXiv 1708.02002) on levels 3 to 7.

    Args:
        backbone: Name of a network, or another one that `pst.backbones.build_body` takes; or a finished backbone, with
            which the other arguments of backbones stay at their defaults.
        num_classes: Labels run from 0 to ``num_classes`` − 1. Data whose labels start at 1 need one more, as in
            torchvision.
        neck: "fpn" for torchvision's own, which ``docs/evidence.md`` compares with the others; "pst" for a
            `pst.PSTPyramid`; or "none" for a 1×1 convolution of each map alone.
        library: "timm" or "torchvision".
        pretrained: Load the backbone's weights, default or of this tag or name.
        backbone_weights: In their place: a local ``.safetensors`` file, one of ``torch.save``, or a state dict, by the
            names of the library's classifier; its class layers may be missing or of other classes.
        finest: Reduction of the finest level: 4, 8, 16 or 32. None means 8 (two-stage detectors: 4). Level 4 helps with
            small objects and has four times the queries of level 8; ``docs/vit.md`` says what it costs.
        topk: k of the PST layers, with ``neck="pst"``.
        backbone_options: More arguments of `pst_backbone`, e.g. ``in_channels`` for images of other than 3 channels.
        options: Arguments of torchvision's RetinaNet: ``min_size``, ``max_size``, ``image_mean``, ``score_thresh``, ….
            ``image_mean`` and ``image_std`` are those that the backbone was trained with, averaged for one channel and
            repeated in turn for several; ``anchor_generator`` is `anchors` of scale 4 and three octaves unless given:
            torchvision's own 32 to 813 pixels on these levels.

    Returns:
        torchvision's model.

    Raises:
        ValueError: There are too few classes, an option is unknown, the network has no such stage, ``topk`` is given
            without PST, the weights are another network's, or options are given beside a finished backbone.
    """
    _check(RetinaNet, num_classes, options)
    body = _build(backbone, ONE_STAGE, neck, library, pretrained, backbone_weights, finest, topk, backbone_options)
    options.setdefault("anchor_generator", anchors(body, scale=4, octaves=3))
    return RetinaNet(body, num_classes, **_normalisation(body, options))


def fcos(
    backbone: Name | PyramidBackbone,
    num_classes: int,
    *,
    neck: Neck = "fpn",
    library: Library = "timm",
    pretrained: bool | str = False,
    backbone_weights: Weights | None = None,
    finest: int | None = None,
    topk: int | Sequence[int] = 0,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> FCOS:
    """FCOS (arXiv 1904.01355) on levels 3 to 7.

    Arguments and errors as in `retinanet`. The one anchor of a position is a square of the level's reduction, from
    which torchvision derives the sizes of objects that a level is responsible for: 4 to 8 times it.

    Distances to a box's sides pass a ReLU. torchvision starts them around 0, where a few steps can make all of them
    negative: then no gradient is left, and the model never learns to place boxes. Here they start around 1, in units
    of the level's reduction, as in the paper, whose distances are exp(0) to begin with.

    Returns:
        torchvision's model.
    """
    _check(FCOS, num_classes, options)
    body = _build(backbone, ONE_STAGE, neck, library, pretrained, backbone_weights, finest, topk, backbone_options)
    options.setdefault("anchor_generator", anchors(body, scale=1, ratios=(1.0,)))
    model = FCOS(body, num_classes, **_normalisation(body, options))
    if options.get("head") is None:
        nn.init.ones_(model.get_parameter("head.regression_head.bbox_reg.bias"))
    return model


def faster_rcnn(
    backbone: Name | PyramidBackbone,
    num_classes: int,
    *,
    neck: Neck = "fpn",
    library: Library = "timm",
    pretrained: bool | str = False,
    backbone_weights: Weights | None = None,
    finest: int | None = None,
    topk: int | Sequence[int] = 0,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN (arXiv 1506.01497, 1612.03144) on levels 2 to 6, RoIs from levels 2 to 5.

    Arguments and errors as in `retinanet`, but ``num_classes`` counts the background, label 0, and is at least 2.
    With ``neck="pst"`` level 2 has H·W/16 queries: ``finest=8`` leaves it out.

    Returns:
        torchvision's model.
    """
    _check(FasterRCNN, num_classes, options, background=True)
    body = _build(backbone, TWO_STAGE, neck, library, pretrained, backbone_weights, finest, topk, backbone_options)
    return FasterRCNN(body, num_classes, **_proposals(body, options))


def mask_rcnn(
    backbone: Name | PyramidBackbone,
    num_classes: int,
    *,
    neck: Neck = "fpn",
    library: Library = "timm",
    pretrained: bool | str = False,
    backbone_weights: Weights | None = None,
    finest: int | None = None,
    topk: int | Sequence[int] = 0,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> MaskRCNN:
    """Mask R-CNN (arXiv 1703.06870): `faster_rcnn` with a mask for each box.

    Returns:
        torchvision's model.
    """
    _check(MaskRCNN, num_classes, options, background=True)
    body = _build(backbone, TWO_STAGE, neck, library, pretrained, backbone_weights, finest, topk, backbone_options)
    options.setdefault("mask_roi_pool", MultiScaleRoIAlign(body.fused, output_size=14, sampling_ratio=2))
    return MaskRCNN(body, num_classes, **_proposals(body, options))


def _check(
    kind: type[nn.Module], num_classes: int | None, options: Mapping[str, Any], *, background: bool = False
) -> None:
    """Refuse too few classes, and options that torchvision's ``**kwargs`` would swallow."""
    least = 1 + background
    if num_classes is not None and num_classes < least:  # with a predictor of one's own it is None
        counted = " with the background, which counts as one," if background else ""
        raise ValueError(f"num_classes{counted} must be at least {least}, got {num_classes}")
    known = [*inspect.signature(kind).parameters, *inspect.signature(GeneralizedRCNNTransform).parameters]
    known = [name for name in dict.fromkeys(known) if name not in ("backbone", "num_classes", "kwargs")]
    for name in options:
        if name not in known:
            near = nearest(name, [*DEFAULTS, *known], 0.6) or f": it takes {', '.join(known)}"
            raise ValueError(f"{kind.__name__} has no option {name!r}{near}")


def _build(backbone: Name | PyramidBackbone, layout: Mapping[str, Any], *values: Any) -> PyramidBackbone:
    """A backbone by name, with the levels that the detector is used to unless others are asked for in the options."""
    given = dict(zip(DEFAULTS, values, strict=True))
    if not isinstance(backbone, PyramidBackbone):
        more = {} if (options := given.pop("backbone_options")) is None else options
        if given["finest"] is None and not more.keys() & {"finest", "returned_layers"}:
            given["finest"] = layout["finest"]
        return pst_backbone(backbone, **{"extra_levels": layout["extra_levels"], **given, **more})
    changed = [name for name, value in given.items() if value != DEFAULTS[name]]
    if changed:
        raise ValueError(
            f"{changed} describe a backbone to build, but a finished one was given: pass them to pst_backbone"
        )
    return backbone


def _proposals(body: PyramidBackbone, options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with anchors and RoI pooling that fit the backbone's levels, and statistics that fit its images."""
    options.setdefault("rpn_anchor_generator", anchors(body, scale=8))
    options.setdefault("box_roi_pool", MultiScaleRoIAlign(body.fused, output_size=7, sampling_ratio=2))
    return _normalisation(body, options)


def _normalisation(body: PyramidBackbone, options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with one mean and one standard deviation for each channel of the images."""
    channels = getattr(body.body, "in_channels", 3)
    for key, of_imagenet in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        name, own = f"image_{key}", getattr(body.body, key, None)
        if not (isinstance(own, tuple) and len(own) == channels):  # a body of one's own may mean another thing
            own = per_channel(of_imagenet, channels)
        given = own if options.get(name) is None else options[name]
        try:
            options[name] = [float(value) for value in given]
        except (TypeError, ValueError):
            options[name] = []
        if len(options[name]) != channels:
            raise ValueError(f"{name} must have {channels} numbers, one for each channel, got {str(given)[:80]}")
    check_statistics(options["image_mean"], options["image_std"], channels, ("image_mean", "image_std"))
    return options
