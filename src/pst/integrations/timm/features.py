"""Feature maps of a timm backbone, fused by a PST pyramid: what ``features_only=True`` gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import FeatureInfo
from torch import Tensor

from pst.backbones.plain import REDUCTIONS
from pst.backbones.timm_plain import is_plain, reductions_of
from pst.integrations.timm.host import OnTimmBackbone
from pst.io.hub import PSTHubMixin
from pst.modules import PSTPyramid
from pst.modules.settings import PyramidOptions, split


class PSTFeatures(OnTimmBackbone, PSTHubMixin, pipeline_tag="image-feature-extraction", tags=["timm"]):
    """A timm backbone and a `pst.PSTPyramid` over its maps, with the interface of timm's feature extractors.

    Args:
        backbone: timm's name of the backbone, with or without a tag.
        finest: Reduction of the finest map that is used, down to the coarsest that there is; 4 for levels from P2.
        out_indices: In its place, which of its maps, as in timm; n means the last n. Neither means the last three,
            most often of reductions 8, 16 and 32. A plain vision transformer has four, of reductions 4 to 32, see
            `pst.backbones.plain.PlainBody`.
        out_channels: Channels of every fused map.
        in_chans: Channels of the images.
        pretrained: Load the backbone's timm weights; the pyramid starts fresh.
        **options: Those of `pst.modules.settings.PyramidOptions` go to `pst.PSTPyramid`, e.g. ``topk``, ``depth``,
            ``share``, ``bottom_up``; the others to `timm.create_model` for the backbone, and ``width`` and
            ``frozen`` to a plain transformer, see `pst.backbones.build_body`.

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
        finest: int | None = None,
        out_indices: int | Sequence[int] | None = None,
        out_channels: int = 256,
        in_chans: int = 3,
        pretrained: bool = False,
        **options: Any,
    ) -> None:
        own, options = split(options, PyramidOptions)
        plain = is_plain(backbone)
        indices = _indices(backbone, finest, out_indices, plain=plain)
        super().__init__(backbone, indices, pretrained=pretrained, plain=plain, in_chans=in_chans, **options)
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


def _indices(
    backbone: str, finest: int | None, out_indices: int | Sequence[int] | None, *, plain: bool
) -> int | Sequence[int]:
    """timm's ``out_indices`` of the maps that are asked for."""
    if finest is None:
        return 3 if out_indices is None else out_indices
    if out_indices is not None:
        raise ValueError(f"finest={finest} and out_indices={out_indices} both choose the maps: give one of them")
    reductions = REDUCTIONS if plain else reductions_of(backbone)
    if finest not in reductions:
        raise ValueError(f"{backbone} has maps of reductions {list(reductions)}, none of finest={finest!r}")
    return [i for i, r in enumerate(reductions) if r >= finest]
