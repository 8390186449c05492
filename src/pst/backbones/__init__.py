"""Classification networks of timm and torchvision as bodies: modules that give all of their feature maps.

A body maps images (B, in_channels, H, W) to an OrderedDict with one map (B, C_i, ~H/r_i, ~W/r_i) for each of its
reductions r_i, finest first, under the name ``str(r_i)``. It stops at the coarsest map that was asked for, so that no
parameter is without a gradient. Each library is imported when one of its bodies is built.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal, Protocol, get_args

from torch import Tensor, nn

from pst.backbones.channels import asked_channels
from pst.backbones.stages import freeze_stages
from pst.backbones.weights import Weights

Library = Literal["timm", "torchvision"]

__all__ = ["Body", "Library", "Weights", "build_body", "freeze_stages"]


class Body(Protocol):
    """What both libraries' bodies have.

    Attributes:
        in_channels: Of the images.
        reductions: Pixels of the image per position of each map, finest first.
        channels: Of each map.
    """

    in_channels: int
    reductions: tuple[int, ...]
    channels: tuple[int, ...]

    def __call__(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, in_channels, H, W) -> maps by ``str(reduction)``."""
        ...


def build_body(
    name: str,
    library: Library = "timm",
    *,
    pretrained: bool | str = False,
    coarsest: int = 32,
    frozen_batchnorm: bool = False,
    in_channels: int | None = None,
    weights: Weights | None = None,
    **options: Any,
) -> nn.Module:
    """Build the body of a classification network.

    Args:
        name: The library's name of the network.
        library: "timm" (any hierarchical network with ``features_only``) or "torchvision" (ResNets, RegNets, and every
            network with a ``features`` part of several resolutions).
        pretrained: Load the library's default weights, or those of this tag (timm: "a1_in1k") or name (torchvision:
            "IMAGENET1K_V2").
        coarsest: Reduction of the last map; later stages are left out.
        frozen_batchnorm: Replace every BatchNorm2d by one with fixed statistics, weight and bias.
        in_channels: Of the images; None means 3. timm's name of the option, ``in_chans``, is taken as well. Published
            weights of the first convolution are adapted as timm does: summed for one channel, else repeated in turn and
            scaled by 3/in_channels.
        weights: In place of ``pretrained``: a local file, ``.safetensors`` or of ``torch.save``, or a state dict, by
            the library's own names. Every tensor of the library's classifier must be there and no other; its class
            layers alone may be missing or of other classes. A timm body also takes its own state dict.
        options: Passed to the library's constructor.

    Returns:
        A Module that is a `Body`.

    Raises:
        FileNotFoundError: ``weights`` names no file.
        TypeError: ``weights`` is neither a file nor a state dict.
        ValueError: Library or network is unknown, it has no such map, its maps are no hierarchy, ``in_channels`` is no
            integer ≥ 1, or ``weights`` cannot be read, are another network's, or given beside ``pretrained``.
    """
    if library not in get_args(Library):
        raise ValueError(f"library must be one of {list(get_args(Library))}, got {library!r}")
    if weights is not None and pretrained:
        raise ValueError(f"weights come from one place: pretrained={pretrained!r} was given beside backbone_weights")
    if library == "timm":
        from pst.backbones.timm import TimmBody as Chosen
    else:
        from pst.backbones.torchvision import torchvision_body as Chosen
    options = {**options, "in_channels": asked_channels(in_channels, options)}
    options.pop("in_chans", None)
    given = {"pretrained": pretrained, "weights": weights, "coarsest": coarsest, "frozen_batchnorm": frozen_batchnorm}
    return Chosen(name, **given, **options)
