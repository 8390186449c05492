"""Feature maps of a timm backbone, fused by a PST pyramid: what ``features_only=True`` gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import FeatureInfo
from torch import Tensor

from pst.integrations.timm.host import OnTimmBackbone
from pst.io.hub import PSTHubMixin
from pst.modules import PSTPyramid
from pst.modules.settings import PyramidOptions, split


class PSTFeatures(OnTimmBackbone, PSTHubMixin, pipeline_tag="image-feature-extraction", tags=["timm"]):
    """A timm backbone and a `pst.PSTPyramid` over its maps, with the interface of timm's feature extractors.

    Args:
        backbone: timm's name of the backbone, with or without a tag.
        out_indices: Which of its maps, as in timm; n means the last n. The default suits reductions 8, 16 and 32.
        out_channels: Channels of every fused map.
        in_chans: Channels of the images.
        pretrained: Load the backbone's timm weights; the pyramid starts fresh.
        **options: Those of `pst.modules.settings.PyramidOptions` go to `pst.PSTPyramid`, e.g. ``topk``, ``depth``,
            ``share``, ``bottom_up``; the others to `timm.create_model` for the backbone.

    Attributes:
        feature_info: timm's FeatureInfo: channels, reduction and module of every fused map.

    Raises:
        TypeError: ``topk`` holds something else than integers, or timm's model knows no such option.
        ValueError: timm has no such backbone or no feature maps of it, widths do not fit, or an option is unknown.

    Examples:
        >>> extractor = PSTFeatures("resnet18", out_channels=64).eval()
        >>> [tuple(y.shape) for y in extractor(torch.randn(1, 3, 96, 128))]
        [(1, 64, 12, 16), (1, 64, 6, 8), (1, 64, 3, 4)]
    """

    output_fmt = "NCHW"

    def __init__(
        self,
        backbone: str,
        *,
        out_indices: int | Sequence[int] = 3,
        out_channels: int = 256,
        in_chans: int = 3,
        pretrained: bool = False,
        **options: Any,
    ) -> None:
        own, options = split(options, PyramidOptions)
        super().__init__(backbone, out_indices, pretrained=pretrained, in_chans=in_chans, **options)
        channels, reductions = self.levels.channels(), self.levels.reduction()
        self.pyramid = PSTPyramid(channels, out_channels, reductions=reductions, **own)
        self.feature_info = self._fused_info(out_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, in_chans, H, W) -> a map (B, out_channels, ~H/r_i, ~W/r_i) for each index, finest first."""
        return self.pyramid(self.forward_maps(x))  # from maps of the backbone's own channels, of the same sizes

    def _fused_info(self, out_channels: int) -> FeatureInfo:
        info = self.levels.from_other(tuple(self.indices))
        modules = [*(f"pyramid.layers.{i}" for i in range(len(self.indices) - 1)), "pyramid.top"]
        for i, module in zip(self.indices, modules, strict=True):
            info.info[i] |= {"num_chs": out_channels, "module": module}
        return info
