"""Bodies from Hugging Face transformers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig

from pst.backbones.channels import check_channels, check_size
from pst.backbones.plain import PlainBody
from pst.backbones.transformers_network import (
    PREFIX,
    Maps,
    channels_of,
    find_maps,
    for_channels,
    loaded_network,
    network_maps,
    new_network,
    plain_config,
    read_config,
)
from pst.backbones.transformers_statistics import Statistics, read_statistics
from pst.backbones.weights import Weights, fill, misfits, read_weights
from pst.io.transfer import shapes

Source = str | Mapping[str, Any] | PreTrainedConfig


def transformers_body(
    source: Source,
    *,
    pretrained: bool | str = False,
    coarsest: int = 32,
    finest: int = 4,
    frozen_batchnorm: bool = False,
    in_channels: int | None = None,
    weights: Weights | None = None,
    **options: Any,
) -> nn.Module:
    """Build a body; see `pst.backbones.build_body`.

    Args:
        source: Name on the Hub, with or without "hf:", a folder, a configuration of transformers or its ``to_dict()``.
        pretrained: Fetch the published weights of this name; a text is a revision.
        coarsest: Reduction of the last map.
        finest: Reduction of the first level of a plain vision transformer.
        frozen_batchnorm: Fix statistics, weight and bias of every BatchNorm2d.
        in_channels: Of the images; None means the configuration's.
        weights: See `pst.backbones.build_body`; names are those of transformers.
        options: ``width`` and ``frozen`` of a plain vision transformer; others are fields of the configuration that
            replace its own, e.g. ``drop_path_rate``.

    Raises:
        OSError: The configuration or the weights of a name cannot be fetched.
        ValueError: See `pst.backbones.build_body`.
    """
    of_levels = {name: options.pop(name) for name in ("width", "frozen") if name in options}
    config: Any = read_config(source, options)
    name = PREFIX + (source.removeprefix(PREFIX) if isinstance(source, str) else config.model_type)
    channels = channels_of(config) if in_channels is None else in_channels
    if config.model_type == "timm_backbone":
        shared = {"pretrained": pretrained, "weights": weights, "coarsest": coarsest, "finest": finest}
        return _of_timm(config, channels, frozen_batchnorm, shared | of_levels)
    if pretrained and not isinstance(source, str):
        raise ValueError(f"{name} is a configuration, which has no published weights: give a name, or weights")
    maps = find_maps(config, name, coarsest)
    if maps.stages:
        config.out_features = list(maps.stages)
    statistics = read_statistics(source, channels, pretrained if isinstance(pretrained, str) else None)
    if len(maps.reductions) == 1:
        shared = {"statistics": statistics, "finest": finest, "coarsest": coarsest}
        body: Any = TransformersPlainBody(config, name, maps, channels, **shared, **of_levels)
    elif of_levels:
        raise ValueError(f"{name} is a hierarchy: {' and '.join(of_levels)} are options of plain vision transformers")
    else:
        body = TransformersBody(config, name, maps, channels, statistics)
    if pretrained:
        revision = pretrained if isinstance(pretrained, str) else None
        body.set_model(loaded_network(config, name, in_channels=channels, revision=revision))
    elif weights is not None:
        _fill(body, config, *read_weights(weights))
    for parameter, values in body.model.named_parameters():
        values.requires_grad_(values.requires_grad and parameter not in maps.unused)
    if frozen_batchnorm:
        from pst.backbones.torchvision import freeze_batchnorm

        freeze_batchnorm(body.model)
    return body


class TransformersBody(nn.Module):
    """All feature maps of a hierarchical network of transformers, NCHW; see `pst.backbones.build_body`.

    Images are filled up as those of a `pst.backbones.timm.TimmBody`. Stages after the last map stay in the network and
    run, as transformers' backbones have it, but do not train.

    Args:
        config: Of the network.
        name: For messages.
        maps: Which it gives.
        in_channels: Of the images.
        statistics: Mean and standard deviation of each channel that the network was trained with.

    Attributes:
        in_channels: Of the images.
        reductions: Of each map, finest first.
        channels: Of each map.
        multiple: What the sides of images are filled up to.
        image_size: The only (H, W) that the network takes; None means any.
        mean: Of each channel of images from 0 to 1, see `read_statistics`.
        std: Standard deviation, likewise.
    """

    def __init__(self, config: Any, name: str, maps: Maps, in_channels: int, statistics: Statistics) -> None:
        super().__init__()
        self.config = for_channels(config, in_channels)
        self.name, self.in_channels = name, in_channels
        self.reductions, self.channels, self.image_size = maps.reductions, maps.channels, maps.image_size
        self.mean, self.std = statistics
        self.multiple = max(4, self.reductions[0])
        self.set_model(new_network(self.config))

    def set_model(self, model: nn.Module) -> None:
        """Take another network of the same kind."""
        self.model = model.train(self.training)

    @property
    def network_config(self) -> dict[str, Any]:
        """What `pst.backbones.build_body` makes the same network of again, in JSON."""
        return plain_config(self.config)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, in_channels, H, W) -> map (B, C_i, ~H/r_i, ~W/r_i) by ``str(r_i)``, finest first.

        Raises:
            ValueError: The images have other channels, or the network takes one size only, which is another.
        """
        check_channels(self.name, x, self.in_channels)
        check_size(self.name, x, self.image_size)
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        maps = network_maps(self.model, self.config, x)
        return OrderedDict((str(r), y) for r, y in zip(self.reductions, maps, strict=True))

    def extra_repr(self) -> str:
        """Settings shown in ``print(module)``."""
        return f"{self.name!r}, channels={self.channels}, reductions={self.reductions}"


class TransformersPlainBody(PlainBody):
    """Levels of stride 4 to 32 of a plain vision transformer of transformers; see `pst.backbones.build_body`.

    Args:
        config: Of the network.
        name: For messages.
        maps: Its one map.
        in_channels: Of the images.
        options: Of `PlainBody`.
    """

    def __init__(self, config: Any, name: str, maps: Maps, in_channels: int, **options: Any) -> None:
        own = for_channels(config, in_channels)
        given = {"patch": maps.reductions[0], "tokens": maps.channels[0], "image_size": maps.image_size}
        super().__init__(new_network(own), name, in_channels=in_channels, **given, **options)
        self.config = own

    @property
    def network_config(self) -> dict[str, Any]:
        """What `pst.backbones.build_body` makes the same network of again, in JSON."""
        return plain_config(self.config)

    def tokens(self, x: Tensor) -> Tensor:
        """Images -> map of the last layer's patch tokens after the final norm; other tokens are left out."""
        return network_maps(self.model, self.config, x)[0]


def _fill(body: Any, config: Any, state: dict[str, Tensor], source: str) -> None:
    """Give a body the weights of one like it, or of a network of transformers for its images or for colour images."""
    own = shapes(body.state_dict())
    if misfits(own, state) < len(own) / 2:  # by the body's own names
        fill(body, state, source)
        return
    try:
        network = loaded_network(config, source, in_channels=body.in_channels, state=state)
    except ValueError:
        if channels_of(config) == body.in_channels:
            raise
        network = loaded_network(body.config, source, in_channels=body.in_channels, state=state)
    body.set_model(network)


def _of_timm(config: Any, channels: int, frozen_batchnorm: bool, options: dict[str, Any]) -> nn.Module:
    """What transformers' TimmBackbone wraps, as timm's own body."""
    from pst.backbones.timm_plain import timm_body

    if config.output_stride is not None:
        options["output_stride"] = config.output_stride
    frozen = frozen_batchnorm or config.freeze_batch_norm_2d
    body: Any = timm_body(config.backbone, in_channels=channels, frozen_batchnorm=frozen, **options)
    body.network_config = plain_config(for_channels(config, channels))
    return body
