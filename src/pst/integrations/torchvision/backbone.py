"""The backbone that torchvision's detectors want: a network's feature maps, fused by a pyramid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from pst.backbones import Library, Name, Weights, build_body, freeze_stages, levels_from
from pst.backbones.plain import PlainBody
from pst.modules import Laterals, PSTPyramid
from pst.modules.necks import Neck, neck_arguments

_NECKS: dict[str, Any] = {"pst": PSTPyramid, "fpn": FeaturePyramidNetwork, "none": Laterals}
ExtraLevels = Literal["pool", "p6p7"]


class PyramidBackbone(nn.Module):
    """A body and the neck that fuses some of its maps; the parameters are named as in torchvision's BackboneWithFPN.

    Args:
        body: A `pst.backbones.Body`.
        fpn: From an OrderedDict of maps to one of maps of ``out_channels`` each: what ``neck`` of `pst_backbone` names.
        levels: Reductions of the maps that are fused, finest first.
        extra_reductions: Of the coarser maps that the neck adds.
        out_channels: Of every map.

    Attributes:
        reductions: Pixels of the image per position of each map, extra ones included.
        fused: Names of the maps without the extra ones, "0" the finest: what RoI pooling reads.
        out_channels: Of every map; what torchvision reads.

    Examples:
        >>> backbone = pst_backbone("resnet18", out_channels=64)
        >>> type(backbone).__name__, backbone.reductions, backbone.out_channels
        ('PyramidBackbone', (4, 8, 16, 32, 64), 64)
    """

    def __init__(
        self, body: nn.Module, fpn: nn.Module, levels: Sequence[int], extra_reductions: Sequence[int], out_channels: int
    ) -> None:
        super().__init__()
        self.body, self.fpn = body, fpn
        self.levels = tuple(levels)
        self.reductions = (*levels, *extra_reductions)
        self.fused = [str(i) for i in range(len(levels))]
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, C, H, W) -> maps (B, out_channels, ~H/r, ~W/r), "0" the finest, then "pool" or "p6" and "p7"."""
        maps = self.body(x)  # (B, C_r, ~H/r, ~W/r) by str(r)
        return self.fpn(OrderedDict(zip(self.fused, (maps[str(r)] for r in self.levels), strict=True)))


def pst_backbone(
    name: Name,
    *,
    neck: Neck = "pst",
    library: Library = "timm",
    pretrained: bool | str = False,
    backbone_weights: Weights | None = None,
    out_channels: int = 256,
    finest: int | None = None,
    returned_layers: Sequence[int] | None = None,
    extra_levels: ExtraLevels | None = "pool",
    trainable_layers: int | None = None,
    frozen_batchnorm: bool | None = None,
    in_channels: int | None = None,
    topk: int | Sequence[int] = 0,
    neck_options: Mapping[str, Any] | None = None,
    body_options: Mapping[str, Any] | None = None,
) -> PyramidBackbone:
    """Build a backbone for torchvision's RetinaNet, FCOS, FasterRCNN, MaskRCNN, or any other class that takes one.

    With a torchvision ResNet and ``neck="fpn"`` it is torchvision's own ``resnet_fpn_backbone``, key by key.

    Args:
        name: The library's name of the network, or another one that `pst.backbones.build_body` takes.
        neck: "pst"; "fpn" for torchvision's FeaturePyramidNetwork, the same model with its usual neck; or "none" for a
            1×1 convolution of each map alone.
        library: "timm" or "torchvision", see `pst.backbones.build_body`.
        pretrained: Load the library's default weights, or those of this tag or name.
        backbone_weights: In their place: a local file or a state dict, see ``weights`` of `pst.backbones.build_body`.
        out_channels: Of every map.
        finest: Reduction of the finest map that is fused: 4, 8, 16 or 32; the coarsest has 32. None means 4.
        returned_layers: In its place, torchvision's choice of stages, finest first: 1, 2, 3, 4 have reductions 4, 8,
            16, 32.
        extra_levels: "pool" adds a subsampled map, "p6p7" two strided convolutions, None nothing.
        trainable_layers: How many stages train, counted from the last: 5 is all, 0 none, see
            `pst.backbones.freeze_stages`. None means 3 with weights of either kind, else 5, as torchvision's builders
            have it. A plain vision transformer has no stages: None leaves it to its option ``frozen``, 0 freezes it.
        frozen_batchnorm: Fix statistics, weight and bias of the body's BatchNorms. None means with such weights.
        in_channels: Of the images; None means 3. Published weights are adapted, see `pst.backbones.build_body`.
        topk: k of the PST layers, see `pst.PSTPyramid`; change it later with `pst.set_topk`.
        neck_options: More arguments of `pst.PSTPyramid` or FeaturePyramidNetwork.
        body_options: More arguments of `pst.backbones.build_body` and the library's constructor, e.g. ``frozen`` and
            ``width`` of a plain vision transformer.

    Returns:
        The backbone; it has ``out_channels`` and yields an OrderedDict.

    Raises:
        ValueError: An option is unknown, the network has no such stage, or ``topk`` is given without PST.
    """
    levels = _levels(finest, returned_layers)
    options = neck_arguments(neck, topk, neck_options)
    extra, extra_reductions = _extra(extra_levels, levels[-1], out_channels)
    trained = bool(pretrained) or backbone_weights is not None
    frozen = trained if frozen_batchnorm is None else frozen_batchnorm
    body: Any = build_body(
        name,
        library,
        pretrained=pretrained,
        weights=backbone_weights,
        weights_name="backbone_weights",
        finest=levels[0],
        coarsest=levels[-1],
        frozen_batchnorm=frozen,
        **({} if in_channels is None else {"in_channels": in_channels}),
        **({} if body_options is None else body_options),
    )
    missing = [r for r in levels if r not in body.reductions]
    if missing:
        raise ValueError(
            f"{name} has maps of reductions {list(body.reductions)}, none of {missing}: see finest and returned_layers"
        )
    if isinstance(body, PlainBody):
        body.keep(levels)
    if trainable_layers is None:
        trainable_layers = 3 if trained and not isinstance(body, PlainBody) else 5
    if trainable_layers != 5:
        freeze_stages(body, trainable_layers, torch.zeros(1, body.in_channels, *_example_size(body)))
    channels = [body.channels[body.reductions.index(r)] for r in levels]
    fpn = _NECKS[neck](channels, out_channels, extra, **options)
    return PyramidBackbone(body, fpn, levels, extra_reductions, out_channels)


def _example_size(body: Any) -> tuple[int, int]:
    """A small size, or the only one that the network takes."""
    size = getattr(body, "image_size", None)
    return (64, 64) if size is None else size


def _levels(finest: int | None, returned_layers: Sequence[int] | None) -> list[int]:
    """Reductions of the maps that are fused."""
    if finest is not None and returned_layers is not None:
        raise ValueError(f"finest={finest} and returned_layers={returned_layers} both choose the levels: give one")
    if returned_layers is None:
        return levels_from(4 if finest is None else finest)
    layers = list(returned_layers)
    if not layers or layers != sorted(set(layers)) or layers[0] < 1 or layers[-1] > 4:
        raise ValueError(
            f"returned_layers must be rising stages from 1 (reduction 4) to 4 (reduction 32), got {layers}"
        )
    return [2 ** (i + 1) for i in layers]


def _extra(kind: ExtraLevels | None, last: int, out_channels: int) -> tuple[ExtraFPNBlock | None, list[int]]:
    """The module that adds coarser maps, and their reductions."""
    if kind is None:
        return None, []
    if kind == "pool":
        return LastLevelMaxPool(), [2 * last]
    if kind == "p6p7":
        return LastLevelP6P7(out_channels, out_channels), [2 * last, 4 * last]
    raise ValueError(f"extra_levels must be one of {[*get_args(ExtraLevels), None]}, got {kind!r}")
