"""Classification: the paper's layout, with PST between the last two stages, on any timm backbone."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead
from timm.layers import ConvNormAct as ConvNormActStrided
from torch import Tensor, nn

from pst.integrations.timm.host import OnTimmBackbone
from pst.io.hub import PSTHubMixin
from pst.modules import PST, ConvNormAct
from pst.modules.settings import LayerOptions, split

Neck = Literal["pst", "conv"]

_WIDTHS = {"resnet50": 256}  # the paper's; the rule below gives the paper's 256 and 512 for ResNet-18 and -101


class PSTClassifier(OnTimmBackbone, PSTHubMixin, pipeline_tag="image-classification", tags=["timm"]):
    """A timm backbone with the paper's classification neck (docs/timm.md, "The layout").

    With C3 and C4 the maps of the last two stages, w the width and s the ratio of their reductions, usually 2:

        F = PST(C3, C4)    D = CN3×3/s([F ; C3])    M = CN([D ; C4])    head = CN(M), pooling, dropout, Linear

    Args:
        backbone: timm's name of the backbone, with or without a tag.
        num_classes: 0 leaves the classifier out.
        in_chans: Channels of the images.
        global_pool: As in timm: "avg", "max", "avgmax", "catavgmax", or "" with ``num_classes=0``.
        drop_rate: Dropout before the classifier.
        pretrained: Load the backbone's timm weights; neck and head start fresh.
        neck: "pst", or "conv": the control in which F is CN(C3) and all else is the same.
        width: w, channels of F, D and M. None means the paper's for ResNets, 256 for 18, 34 and 50 and 512 for 101; for
            others half the channels of C4, to the nearest multiple of 64 from 64 to 512.
        head_width: Channels of CN(M), what pooling sees.
        **options: Those of `pst.modules.settings.LayerOptions` go to `pst.PST`, e.g. ``topk``, ``depth``; the others to
            `timm.create_model` for the backbone, e.g. ``drop_path_rate`` or ``img_size``.

    Attributes:
        num_features: Channels of what `forward_features` returns.

    Raises:
        TypeError: ``topk`` is not an integer, or timm's model knows no such option.
        ValueError: timm has no such backbone or no two feature maps of it, widths do not fit, an option is unknown, or
            ``neck="conv"`` is given one of `pst.PST`.

    Examples:
        >>> model = PSTClassifier("resnet18", num_classes=10, topk=4).eval()
        >>> model(torch.randn(1, 3, 96, 96)).shape
        torch.Size([1, 10])
    """

    hub_classes = "num_classes"

    def __init__(
        self,
        backbone: str,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        pretrained: bool = False,
        neck: Neck = "pst",
        width: int | None = None,
        head_width: int = 1280,
        **options: Any,
    ) -> None:
        if neck not in ("pst", "conv"):
            raise ValueError(f'neck must be "pst" or "conv", got {neck!r}: the model without either is timm\'s own')
        own, options = split(options, LayerOptions)
        if neck == "conv" and (unused := {name: value for name, value in own.items() if (name, value) != ("topk", 0)}):
            raise ValueError(
                f'neck="conv" has no attention: leave out {", ".join(f"{k}={v!r}" for k, v in unused.items())}'
            )
        super().__init__(backbone, (-2, -1), pretrained=pretrained, in_chans=in_chans, **options)
        fine, coarse = self.levels.channels()
        if width is None:
            width = _width(backbone, coarse)
        fine_reduction, coarse_reduction = self.levels.reduction()
        if neck == "pst":
            self.fuse: nn.Module = PST(fine, coarse, width, **own)
        else:
            self.fuse = ConvNormAct(fine, width)
        stride = coarse_reduction // fine_reduction
        self.down = ConvNormActStrided(width + fine, width, 3, stride=stride, act_layer=nn.SiLU)
        self.merge = ConvNormAct(width + coarse, width)
        self.expand = ConvNormAct(width, head_width)
        self.head = ClassifierHead(head_width, num_classes, global_pool, drop_rate)
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.num_features = head_width
        self.pretrained_cfg |= {"classifier": "head.fc", "num_classes": num_classes}

    @property
    def head_hidden_size(self) -> int:
        """Channels of what `forward_head` returns with ``pre_logits``."""
        return self.num_features * self.head.global_pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> (B, num_features, ~H/32, ~W/32), the size of the backbone's last map."""
        fine, coarse = self.forward_maps(x)  # C3 (B, C3, ~H/16, ~W/16), C4 (B, C4, ~H/32, ~W/32)
        fused = self.fuse(fine, coarse) if isinstance(self.fuse, PST) else self.fuse(fine)  # F (B, w, ~H/16, ~W/16)
        down = self.down(torch.cat([fused, fine], 1))  # D (B, w, ~H/32, ~W/32)
        if down.shape[2:] != coarse.shape[2:]:  # a backbone that rounds odd sizes down
            down = F.interpolate(down, coarse.shape[2:], mode="bilinear", align_corners=False)
        return self.expand(self.merge(torch.cat([down, coarse], 1)))  # from M (B, w, ~H/32, ~W/32)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, num_features, h, w) -> (B, num_classes), or (B, head_hidden_size) with ``pre_logits``."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> logits (B, num_classes); features if there is no classifier."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one, or by none for 0; ``global_pool`` None keeps the pooling."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.pretrained_cfg["num_classes"] = num_classes

    def hub_config(self) -> dict[str, Any]:
        """Arguments that build this model, as it is now."""
        now = {"num_classes": self.num_classes, "global_pool": self.head.global_pool.pool_type}
        return super().hub_config() | now


def _width(backbone: str, channels: int) -> int:
    """w for a backbone whose last map has so many channels."""
    return _WIDTHS.get(backbone.partition(".")[0], min(512, max(64, (channels + 64) // 128 * 64)))
