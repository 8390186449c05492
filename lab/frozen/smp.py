"""Decoders of segmentation_models_pytorch on the maps of strides 4 to 32, where that package is installed."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

_DEEPLAB = {"deeplabv3plus": (1, 3), "deeplabv3plus-s4": (0, 2)}  # which two of the maps, a factor of 4 apart
KINDS = ("fpn", "pan", "upernet", *_DEEPLAB, "segformer")
_SEGMENTATION = 64  # of FPN's second half, whose GroupNorms have 32 groups


def is_installed() -> bool:
    """Whether its rows can be built."""
    return importlib.util.find_spec("segmentation_models_pytorch") is not None


class Decoder(nn.Module):
    """One of `KINDS`, called with maps by name.

    Its own list of maps begins with the image and stride 2, which none of these looks into; an empty map stands there.
    DeepLabV3+ enlarges its coarsest map four times: of the strides 4 to 32 it gets 8 and 32, or as "-s4" 4 and 16.

    Args:
        kind: Of `KINDS`.
        channels: Of the maps of strides 4, 8, 16 and 32.
        width: Of the decoder; of FPN's pyramid, which has `_SEGMENTATION` channels behind it.

    Raises:
        ImportError: segmentation_models_pytorch is not installed.
    """

    def __init__(self, kind: str, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.kind, self.out_channels = kind, _SEGMENTATION if kind == "fpn" else width
        self.decoder = _build(kind, [3, 0, *channels], width)

    def forward(self, maps: OrderedDict[str, Tensor]) -> Tensor:
        """Maps -> (B, out_channels, H, W)."""
        levels = list(maps.values())
        if self.kind in _DEEPLAB:
            fine, coarse = (levels[i] for i in _DEEPLAB[self.kind])
            levels = [fine, fine, coarse, coarse]
        first = levels[0]
        height, width = 4 * first.shape[2], 4 * first.shape[3]
        image, half = (first.new_empty(len(first), 0, height // s, width // s) for s in (1, 2))
        return self.decoder([image, half, *levels])


def _build(kind: str, channels: list[int], width: int) -> Any:
    from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder  # pyright: ignore[reportMissingImports]
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder  # pyright: ignore[reportMissingImports]
    from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder  # pyright: ignore[reportMissingImports]
    from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder  # pyright: ignore[reportMissingImports]
    from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder  # pyright: ignore[reportMissingImports]

    if kind == "fpn":
        return FPNDecoder(channels, pyramid_channels=width, segmentation_channels=_SEGMENTATION, dropout=0.0)
    if kind == "pan":
        return PANDecoder(channels, encoder_depth=5, decoder_channels=width)
    if kind == "upernet":
        return UPerNetDecoder(channels, decoder_channels=width)
    if kind == "segformer":
        return SegformerDecoder(channels, segmentation_channels=width)
    fine, coarse = (channels[2 + i] for i in _DEEPLAB[kind])
    two = [*channels[:2], fine, fine, coarse]
    return DeepLabV3PlusDecoder(
        two,
        encoder_depth=4,
        out_channels=width,
        atrous_rates=(12, 24, 36),
        output_stride=16,
        aspp_separable=True,
        aspp_dropout=0.0,
    )
