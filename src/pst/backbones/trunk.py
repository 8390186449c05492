"""The part of a timm model that gives maps, with timm's own parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import timm
from timm.models import FeatureInfo
from torch import Tensor, nn

from pst.backbones.timm import check_known


class Trunk(NamedTuple):
    """A timm model without what lies behind its last map.

    Attributes:
        network: Its state dict keys are timm's; `trunk_maps` runs it.
        indices: Of its maps that are used, as timm counts them, rising.
        levels: timm's FeatureInfo of these maps, finest first.
        config: timm's ``pretrained_cfg``.
    """

    network: nn.Module
    indices: list[int]
    levels: FeatureInfo
    config: dict[str, Any]


def build_trunk(name: str, out_indices: int | Sequence[int], *, pretrained: bool, **options: Any) -> Trunk:
    """Build a trunk; a `pst.backbones.timm.TimmBody` has the parameter names of ``features_only`` instead.

    Args:
        name: timm's name of the model, with or without a tag.
        out_indices: Which of its feature maps are used, as in timm; n means the last n.
        pretrained: Load timm's weights.
        **options: Passed to ``timm.create_model``.

    Raises:
        TypeError: The model knows no such option.
        ValueError: timm has no such model, or no feature maps of it.
    """
    check_known(name)
    asked = {"features_only": True, "feature_cls": "getter", "out_indices": out_indices}
    try:
        getter: Any = timm.create_model(name, pretrained=pretrained, **asked, **options)
    except (AttributeError, TypeError) as error:
        if "feature_" not in str(error):  # an option that the model does not know
            raise
        raise ValueError(f"timm {timm.__version__} has no feature maps of {name!r}: {error}") from error
    if not hasattr(getter.model, "forward_intermediates"):
        raise ValueError(f"timm {timm.__version__} has no feature maps of {name!r}: no forward_intermediates")
    indices = sorted(i % len(getter.feature_info) for i in getter.feature_info.out_indices)
    network = getter.model
    if hasattr(getattr(network, "head", None), "fc"):  # timm before 1.0.31 leaves its unused norms there
        network.head = nn.Identity()
    return Trunk(network, indices, getter.feature_info.from_other(tuple(indices)), dict(getter.pretrained_cfg))


def trunk_maps(network: Any, indices: list[int], x: Tensor) -> list[Tensor]:
    """Images (B, C, H, W) -> maps (B, C_i, ~H/r_i, ~W/r_i) of a `Trunk`, finest first."""
    return network.forward_intermediates(x, indices=indices, norm=False, output_fmt="NCHW", intermediates_only=True)
