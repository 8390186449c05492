"""Bodies from torchvision, with the parameter names that torchvision's own detectors have."""

from __future__ import annotations

from collections import OrderedDict
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.ops import FrozenBatchNorm2d

from pst.backbones.channels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_channels,
    per_channel,
    replace_first_convolution,
)
from pst.backbones.weights import Weights, filled_network, read_weights

PROBE = 64


class TorchvisionBody(IntermediateLayerGetter):
    """All feature maps of a torchvision network, NCHW; see `pst.backbones.build_body`.

    Args:
        trunk: Module whose children run one after another.
        layers: Name of a child -> ``str(reduction)`` of the map it gives, finest first.
        channels: Of each map.
        channels_last: The children give (B, H, W, C).
        in_channels: Of the images.
        statistics: Mean and standard deviation of each channel that the network was trained with.

    Attributes:
        in_channels: Of the images.
        reductions: Of each map, finest first.
        channels: Of each map.
        mean: Of each channel of images from 0 to 1: torchvision's of these weights, or of the network's default ones.
        std: Standard deviation, likewise.
        multiple: What the sides of images are filled up to: they stay as they are.
    """

    def __init__(
        self,
        trunk: nn.Module,
        layers: dict[str, str],
        channels: tuple[int, ...],
        *,
        channels_last: bool = False,
        in_channels: int = 3,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
    ) -> None:
        super().__init__(trunk, layers)
        self.reductions = tuple(int(r) for r in layers.values())
        self.channels = channels
        self.channels_last = channels_last
        self.in_channels = in_channels
        self.mean, self.std = statistics
        self.multiple = 1

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, in_channels, H, W) -> map (B, C_i, ~H/r_i, ~W/r_i) by ``str(r_i)``, finest first.

        Raises:
            ValueError: The images have other channels.
        """
        check_channels("this body", x, self.in_channels)
        maps = super().forward(x)
        if self.channels_last:
            maps = OrderedDict((name, y.permute(0, 3, 1, 2)) for name, y in maps.items())
        return maps


def torchvision_body(
    name: str,
    *,
    pretrained: bool | str = False,
    coarsest: int = 32,
    frozen_batchnorm: bool = False,
    in_channels: int = 3,
    weights: Weights | None = None,
    **options: Any,
) -> TorchvisionBody:
    """Build a body; a map is the output of the last child at its resolution.

    ``weights`` are by the names of torchvision's classifier, see `pst.backbones.build_body`.

    Raises:
        ValueError: The network is unknown, or has no such map.
    """
    if name not in list_models():
        raise ValueError(
            f"torchvision has no network {name!r}; names like it: {get_close_matches(name, list_models())}"
        )
    published = ("DEFAULT" if pretrained else None) if isinstance(pretrained, bool) else pretrained
    model, given = get_model(name, weights=published, **options), 3
    if weights is not None:
        state, source = read_weights(weights)
        model, given = filled_network(lambda n: _classifier(name, n, options), state, source, in_channels)
    trunk, channels_last = _trunk(model), isinstance(model, SwinTransformer)
    if given != in_channels:
        replace_first_convolution(trunk, in_channels, pretrained=bool(pretrained) or weights is not None)
    if frozen_batchnorm:
        freeze_batchnorm(trunk)
    layers, channels = _last_of_each_resolution(trunk, channels_last, in_channels)
    if str(coarsest) not in layers.values():
        raise ValueError(f"{name} has maps of reductions {', '.join(layers.values())}, none of {coarsest}")
    kept = {child: r for child, r in layers.items() if int(r) <= coarsest}
    options = {"channels_last": channels_last, "in_channels": in_channels}
    options["statistics"] = _statistics(name, published, in_channels)
    return TorchvisionBody(trunk, kept, channels[: len(kept)], **options)


def _statistics(name: str, weights: str | None, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel that weights of a network, or its default ones, were trained with."""
    try:
        known: Any = get_model_weights(name).__members__
    except ValueError:  # a network of one's own, of which torchvision knows no weights
        known = {}
    chosen = known.get("DEFAULT" if weights is None else str(weights).rpartition(".")[2])
    preset = None if chosen is None else chosen.transforms()
    mean, std = getattr(preset, "mean", IMAGENET_MEAN), getattr(preset, "std", IMAGENET_STD)
    return per_channel(mean, channels), per_channel(std, channels)


def _classifier(name: str, channels: int, options: dict[str, Any]) -> nn.Module:
    model = get_model(name, weights=None, **options)
    replace_first_convolution(model, channels, pretrained=False)
    return model


def _trunk(model: nn.Module) -> nn.Module:
    """The part whose children run one after another."""
    if hasattr(model, "layer4"):  # a ResNet; its pooling and classifier follow its maps and are left out
        return model
    if isinstance(blocks := getattr(model, "trunk_output", None), nn.Sequential):  # a RegNet
        return nn.Sequential(OrderedDict([("stem", model.get_submodule("stem")), *blocks.named_children()]))
    features = getattr(model, "features", None)
    if not isinstance(features, nn.Sequential):
        raise ValueError(  # noqa: TRY004 - a name is wrong, not a type
            f"{type(model).__name__} has no feature maps of several resolutions: take a hierarchical network"
        )
    return features


@torch.no_grad()
def _last_of_each_resolution(
    trunk: nn.Module, channels_last: bool, in_channels: int
) -> tuple[dict[str, str], tuple[int, ...]]:
    """Name of the last child at each resolution -> its reduction; and the channels there."""
    training, x = trunk.training, torch.zeros(1, in_channels, PROBE, PROBE)
    trunk.eval()
    found: dict[str, tuple[str, int]] = {}
    for name, child in trunk.named_children():
        if isinstance(child, (nn.AdaptiveAvgPool2d, nn.Linear)):
            break
        x = child(x)
        size, channels = (x.shape[1], x.shape[3]) if channels_last else (x.shape[2], x.shape[1])
        if size < PROBE:
            found[str(PROBE // size)] = (name, channels)
    trunk.train(training)
    return {name: r for r, (name, _) in found.items()}, tuple(c for _, c in found.values())


def freeze_batchnorm(module: nn.Module) -> None:
    """Replace every BatchNorm2d inside ``module`` by torchvision's FrozenBatchNorm2d of the same values."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            freeze_batchnorm(child)
