"""What the models here have in common: a timm backbone, and timm's own methods handed on to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from timm.models import FeatureInfo
from torch import Tensor, nn

from pst.backbones.channels import asked_channels, check_channels, per_channel
from pst.backbones.timm_plain import TimmPlainBody
from pst.backbones.trunk import build_trunk, trunk_maps

# where the weights of a whole timm model come from: no such weights exist for a model with PST
_SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")
_START_OF_NAME = re.compile(r"(?<![\[\\])\^")


class OnTimmBackbone(nn.Module):
    """Base of the models here.

    Args:
        backbone: timm's name of the backbone, with or without a tag.
        out_indices: Which of its feature maps are used, as in timm; n means the last n.
        pretrained: Load the backbone's timm weights.
        plain: Make maps of reductions 4, 8, 16 and 32 of a plain transformer's last one.
        options: Passed to `timm.create_model`; ``width`` and ``frozen`` of a plain one to its body.

    Attributes:
        backbone: The timm model without what lies behind its last map, whose state dict keys are timm's; or a
            `pst.backbones.timm_plain.TimmPlainBody`, which has it as ``model``.
        levels: timm's FeatureInfo of the maps that are used, finest first.

    Raises:
        ValueError: timm has no such model, or no feature maps of it.
    """

    hub_start: ClassVar[dict[str, Any]] = {
        "pretrained": False,
        "pretrained_cfg": None,
        "pretrained_cfg_overlay": None,
        "cache_dir": None,
    }

    def __init__(
        self, backbone: str, out_indices: int | Sequence[int], *, pretrained: bool, plain: bool = False, **options: Any
    ) -> None:
        super().__init__()
        self.in_chans = asked_channels(None, options)
        self._inner = "backbone.model" if plain else "backbone"  # timm's model
        if plain:
            options.pop("in_chans", None)
            self.backbone: Any = TimmPlainBody(backbone, pretrained=pretrained, in_channels=self.in_chans, **options)
            self.levels = _plain_levels(self.backbone, out_indices)
            self.indices = sorted(self.levels.out_indices)
            self.backbone.keep(self.levels.reduction())
            config = dict(self.backbone.model.pretrained_cfg)
        else:
            trunk = build_trunk(backbone, out_indices, pretrained=pretrained, **options)
            self.backbone, self.indices, self.levels, config = trunk
        self.pretrained_cfg = self.default_cfg = _config(backbone, config, self.in_chans, self._inner)

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """Images (B, in_chans, H, W) -> the backbone's maps (B, C_i, ~H/r_i, ~W/r_i), finest first.

        Raises:
            ValueError: The images have other channels.
        """
        check_channels(self.pretrained_cfg["architecture"], x, self.in_chans)
        if isinstance(self.backbone, TimmPlainBody):
            return list(self.backbone(x).values())
        return trunk_maps(self.backbone, self.indices, x)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward pass, where timm's model can."""
        inner: Any = self.get_submodule(self._inner)
        inner.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The backbone's groups of layers, for layer-wise learning rates; neck and head come last."""

        def inside(pattern: str) -> str:
            return rf"^{re.escape(self._inner)}\.(?:{_START_OF_NAME.sub('', pattern)})"

        inner: Any = self.get_submodule(self._inner)
        groups: dict[str, Any] = inner.group_matcher(coarse=coarse)
        return {name: _map_patterns(spec, inside) for name, spec in groups.items()}

    def no_weight_decay(self) -> set[str]:
        """Names of the backbone's parameters that timm does not decay."""
        network: Any = self.get_submodule(self._inner)
        names = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
        return {f"{self._inner}.{name}" for name in names}


def _map_patterns(spec: Any, function: Callable[[str], str]) -> Any:
    """``function`` of a matcher's regular expression, or of those in its list of (regular expression, suffix)."""
    if isinstance(spec, str):
        return function(spec)
    return None if spec is None else [(function(pattern), suffix) for pattern, suffix in spec]


def _plain_levels(body: TimmPlainBody, out_indices: int | Sequence[int]) -> FeatureInfo:
    """timm's description of the levels of a plain transformer, of which some are used."""
    levels = [
        {"num_chs": c, "reduction": r, "module": f"backbone.pyramid.levels.{r}"}
        for r, c in zip(body.reductions, body.channels, strict=True)
    ]
    given = [-1 - i for i in range(out_indices)] if isinstance(out_indices, int) else out_indices
    try:
        return FeatureInfo(levels, tuple(sorted({range(len(levels))[i] for i in given})))
    except IndexError:
        raise ValueError(f"{body.name} has {len(levels)} levels, got out_indices={out_indices}") from None


def _config(backbone: str, config: dict[str, Any], channels: int, prefix: str) -> dict[str, Any]:
    """The backbone's pretrained_cfg for the model around it: no source of weights, and input as the images have it."""
    config = {name: value for name, value in config.items() if name not in _SOURCES}
    config |= {name: (channels, *config[name][1:]) for name in ("input_size", "test_input_size") if config.get(name)}
    config |= {name: per_channel(config[name], channels) for name in ("mean", "std") if config.get(name)}
    first = config.get("first_conv")
    if first is not None:
        config["first_conv"] = (
            f"{prefix}.{first}" if isinstance(first, str) else tuple(f"{prefix}.{name}" for name in first)
        )
    return config | {"architecture": f"pst_{backbone.partition('.')[0]}"}
