"""Bodies from timm."""

from __future__ import annotations

import logging
from collections import OrderedDict
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, check_channels, check_size, per_channel
from pst.backbones.weights import Weights, check, fill, filled_network, fits, heads_of, misfits, read_weights
from pst.io.logs import logging_at
from pst.io.transfer import shapes

PROBE = (96, 128)  # a size that no network has as its one fixed size


def check_known(name: str) -> None:
    """Raise ValueError with names like it unless timm has a model ``name``, with or without a tag."""
    if not timm.is_model(name):
        near = get_close_matches(name.partition(".")[0], timm.list_models(), 3)
        like = f"names like it are {', '.join(near)}" if near else "timm.list_models('*name*') searches by name"
        raise ValueError(f"timm has no model {name!r}: {like}")


class TimmBody(nn.Module):
    """All feature maps of a timm network, NCHW; see `pst.backbones.build_body`.

    Images whose sides are not a multiple of 4 (of the finest reduction, if that is larger) get zeros at the right and
    bottom, so that networks that cut images into patches take any size and no map drops the last pixels. A network that
    takes images of one size only says so by name.

    Args:
        name: timm's name of the network, with or without a tag.
        pretrained: Load timm's default weights, or those of this tag.
        coarsest: Reduction of the last map.
        frozen_batchnorm: Fix statistics, weight and bias of every BatchNorm2d.
        in_channels: Of the images.
        weights: In place of ``pretrained``: a local ``.safetensors`` file, one of ``torch.save``, or a state dict, by
            timm's names.
        options: Passed to ``timm.create_model``.

    Attributes:
        name: Of the network.
        in_channels: Of the images.
        reductions: Of each map, finest first.
        channels: Of each map.
        multiple: What the sides of images are filled up to.
        image_size: The one (H, W) that the network takes; None means any.
        mean: Of each channel of images from 0 to 1: timm's of these weights, or of the network's default ones.
        std: Standard deviation, likewise.

    Raises:
        ValueError: The network is unknown, has no such map, or its maps are not a hierarchy.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        coarsest: int = 32,
        frozen_batchnorm: bool = False,
        in_channels: int = 3,
        weights: Weights | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.name = name if not isinstance(pretrained, str) else f"{name}.{pretrained}"
        self.in_channels = in_channels
        options |= {"in_chans": in_channels, "features_only": True}
        indices, self.reductions, self.channels = _plan(self.name, coarsest, options)
        self.multiple = max(4, self.reductions[0])
        load: dict[str, Any] = {"pretrained": bool(pretrained), "out_indices": indices}
        self.model: Any = timm.create_model(self.name, **load, **options)
        if any(getattr(m, "strict_img_size", False) for m in self.model.modules()) and "img_size" not in options:
            options["strict_img_size"] = False  # the network can take any size, and wants to be asked for it
            self.model = timm.create_model(self.name, **load, **options)
        if weights is not None:
            self.model = with_weights(self.model, self.name, weights, {"out_indices": indices, **options})
        self.mean, self.std = statistics_of(self.model, in_channels)
        if frozen_batchnorm:
            self.model = freeze_batch_norm_2d(self.model)
        self.channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        self.image_size: tuple[int, int] | None = None
        self.image_size = self._fixed_size(in_channels, options.get("img_size"))

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, in_channels, H, W) -> map (B, C_i, ~H/r_i, ~W/r_i) by ``str(r_i)``, finest first.

        Raises:
            ValueError: The network takes images of other channels or, only, of another size.
        """
        check_channels(self.name, x, self.in_channels)
        check_size(self.name, x, self.image_size)
        height, width = x.shape[2:]
        maps = self.model(F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple)))
        if self.channels_last:
            maps = [y.permute(0, 3, 1, 2) for y in maps]
        return OrderedDict((str(r), y) for r, y in zip(self.reductions, maps, strict=True))

    @torch.no_grad()
    def _fixed_size(self, in_channels: int, asked: int | tuple[int, int] | None) -> tuple[int, int] | None:
        """The size it was built for, ``asked`` or its own, if the network refuses another one."""
        training = self.training
        try:
            self.eval()(torch.zeros(1, in_channels, *PROBE))
        except (AssertionError, RuntimeError):
            size = self.model.pretrained_cfg["input_size"][1:] if asked is None else asked
            size = (size, size) if isinstance(size, int) else (size[0], size[1])
            self(torch.zeros(1, in_channels, *size))  # what fails here as well is not a question of size
            return size
        finally:
            self.train(training)
        return None

    def extra_repr(self) -> str:
        """Settings shown in ``print(module)``."""
        return f"{self.name!r}, channels={self.channels}, reductions={self.reductions}"


def statistics_of(model: nn.Module, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a timm model was trained with, for images of so many channels.

    It is what ``pretrained_cfg`` says; what that lacks is ImageNet's.
    """
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    mean, std = config.get("mean") or IMAGENET_MEAN, config.get("std") or IMAGENET_STD
    return per_channel(mean, channels), per_channel(std, channels)


def _plan(
    name: str, coarsest: int, options: dict[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Indices, reductions, channels of the maps up to ``coarsest``, asked of a network before weights are loaded."""
    check_known(name)
    network: Any = timm.create_model(name, pretrained=False, **options)
    reductions, channels = tuple(network.feature_info.reduction()), tuple(network.feature_info.channels())
    if any(a >= b for a, b in pairwise(reductions)) or coarsest not in reductions:
        raise ValueError(
            f"{name} has maps of reductions {list(reductions)}; wanted are rising reductions up to {coarsest}: take a "
            "hierarchical network such as resnet18, convnext_atto or swin_tiny_patch4_window7_224"
        )
    n = reductions.index(coarsest) + 1
    return tuple(range(n)), reductions[:n], channels[:n]


def with_weights(model: Any, name: str, weights: Weights, options: dict[str, Any]) -> Any:
    """``model``, or another one like it, with weights by the names of itself or of timm's classifier.

    Args:
        model: Made by ``timm.create_model(name, **options)``.
        name: timm's name.
        weights: File or state dict.
        options: As they were given.

    Raises:
        ValueError: They are another network's.
    """
    state, source = read_weights(weights)
    of_body = all(key.startswith("model.") for key in state)
    own = {key.removeprefix("model."): t for key, t in state.items()} if of_body else state
    if fits(shapes(model.state_dict()), own):
        fill(model, own, source)
        return model
    plain = {
        key: v for key, v in options.items() if key not in ("features_only", "out_indices", "in_chans", "num_classes")
    }

    def build(channels: int) -> Any:
        return timm.create_model(name, in_chans=channels, **plain)

    try:
        network, _ = filled_network(build, own, source, options["in_chans"])
    except ValueError:
        body, whole = shapes(model.state_dict()), build(options["in_chans"])
        if misfits(body, own) < misfits(shapes(whole.state_dict()), own, heads_of(whole)):
            check(body, own, source)  # what a body lacks, by its own names
        raise
    heads = tuple(f"{head}." for head in heads_of(network))
    overlay = {"state_dict": {key: t for key, t in own.items() if not key.startswith(heads)}}
    with logging_at("timm.models._builder", logging.ERROR):  # it lists what lies behind the last map; all was checked
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    model.pretrained_cfg.pop("state_dict")
    return model
