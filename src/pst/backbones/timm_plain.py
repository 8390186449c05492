"""timm's networks as bodies: hierarchies, and plain vision transformers with levels made of their one map."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor

from pst.backbones.plain import PlainBody
from pst.backbones.timm import TimmBody, check_known, statistics_of, with_weights
from pst.backbones.weights import Weights, read_weights


def timm_body(name: str, **options: Any) -> TimmBody | TimmPlainBody:
    """Build a `TimmBody`, or a `TimmPlainBody` of a network whose maps are all of one stride.

    Args:
        name: timm's name of the network, with or without a tag.
        options: Of the class; ``finest``, ``width`` and ``frozen`` are those of a plain one.

    Raises:
        ValueError: See the classes; or ``width`` or ``frozen`` are given for a hierarchy.
    """
    if is_plain(name):
        return TimmPlainBody(name, **options)
    options.pop("finest", None)
    if own := [key for key in ("width", "frozen") if key in options]:
        raise ValueError(f"{name} is a hierarchy: {' and '.join(own)} are options of plain vision transformers")
    return TimmBody(name, **options)


def is_plain(name: str) -> bool:
    """Whether timm's network has maps of one stride only.

    Raises:
        ValueError: timm has no such network, or no feature maps of it.
    """
    return len({*reductions_of(name)}) == 1


def reductions_of(name: str) -> tuple[int, ...]:
    """Reduction of each of timm's feature maps of a network, in timm's order; nothing is computed.

    Raises:
        ValueError: timm has no such network, or no feature maps of it.
    """
    check_known(name)
    with torch.device("meta"):
        try:
            network: Any = timm.create_model(name, features_only=True)
        except (AttributeError, RuntimeError) as error:
            raise ValueError(f"timm {timm.__version__} has no feature maps of {name!r}: {error}") from error
    return tuple(network.feature_info.reduction())


class TimmPlainBody(PlainBody):
    """Levels of stride 4 to 32 of a plain timm network; see `pst.backbones.build_body`.

    Args:
        name: timm's name of the network, with or without a tag.
        pretrained: Load timm's default weights, or those of this tag.
        coarsest: Reduction of the last level.
        finest: Reduction of the first level.
        frozen_batchnorm: For hierarchies; such a network has none.
        in_channels: Of the images.
        weights: See `pst.backbones.build_body`; names are timm's.
        width: Channels of every level.
        frozen: See `PlainBody`.
        options: Passed to ``timm.create_model``.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        coarsest: int = 32,
        finest: int = 4,
        frozen_batchnorm: bool = False,
        in_channels: int = 3,
        weights: Weights | None = None,
        width: int = 256,
        frozen: bool = False,
        **options: Any,
    ) -> None:
        del frozen_batchnorm
        name = name if not isinstance(pretrained, str) else f"{name}.{pretrained}"
        options |= {"in_chans": in_channels, "num_classes": 0}
        network = _on_meta(name, options)
        if hasattr(network, "dynamic_img_size") and "dynamic_img_size" not in options:
            options["dynamic_img_size"] = True
            network = _on_meta(name, options)
        patch = network.feature_info[-1]["reduction"]
        image_size = _fixed_size(network, patch, options)
        model = _without_head(timm.create_model(name, pretrained=bool(pretrained), **options))
        super().__init__(
            model,
            name,
            width=width,
            patch=patch,
            tokens=model.num_features,
            in_channels=in_channels,
            image_size=image_size,
            finest=finest,
            coarsest=coarsest,
            frozen=frozen,
            statistics=statistics_of(model, in_channels),
        )
        if weights is not None and not self.take_own(*read_weights(weights)):
            self.set_model(_without_head(with_weights(model, name, weights, options)))

    def tokens(self, x: Tensor) -> Tensor:
        """Images -> map of the last block's patch tokens after the final norm, without class and register tokens."""
        return _last_map(self.model, x)


def _without_head(network: Any) -> Any:
    """The network without what lies behind its last norm, in place."""
    network.prune_intermediate_layers(1, prune_norm=False)
    return network


def _last_map(network: Any, x: Tensor) -> Tensor:
    return network.forward_intermediates(x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[0]


def _on_meta(name: str, options: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, **options).eval()


@torch.no_grad()
def _fixed_size(network: Any, patch: int, options: dict[str, Any]) -> tuple[int, int] | None:
    """The size it was built for, ``img_size`` among the options or its own, if the network refuses another one."""
    channels = options["in_chans"]
    try:
        _last_map(network, torch.empty(1, channels, 6 * patch, 8 * patch, device="meta"))
    except (AssertionError, RuntimeError):
        size = options.get("img_size", network.pretrained_cfg["input_size"][1:])
        size = (size, size) if isinstance(size, int) else (size[0], size[1])
        _last_map(
            network, torch.empty(1, channels, *size, device="meta")
        )  # what fails here as well is not a question of size
        return size
    return None
