"""Configurations of the detectors with PST: those of transformers, and which blocks are PST."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DFineConfig, RTDetrConfig, RTDetrV2Config

from pst.functional.selection import from_plain
from pst.io.files import first_line
from pst.io.layer_settings import named_settings
from pst.modules import PST
from pst.modules.settings import LayerOptions


@dataclass(repr=False)
class PSTConfig:
    """What a configuration here has beside its host's.

    Attributes:
        pst_levels: Strides of the finer map of each fusion that is PST; None means all.
        pst_options: Options of `pst.PST`, see `pst.modules.settings.LayerOptions`; None means its defaults.
        pst_settings: What was set on each layer when the model was saved, see `pst.io.layer_settings`.
        pst_calibrated: Names of the layers that had fine statistics then, see `pst.calibrate`.
    """

    pst_levels: Sequence[int] | None = None
    pst_options: Mapping[str, Any] | None = None
    pst_settings: Mapping[str, Any] | None = None
    pst_calibrated: Sequence[str] | None = None

    def __post_init__(self, **others: Any) -> None:
        """Check, after what the host checks.

        Raises:
            TypeError: Levels or options are of another type.
            ValueError: There is no such level or option, or a PST layer cannot be built with these.
        """
        super().__post_init__(**others)  # pyright: ignore[reportAttributeAccessIssue]  # the host's
        check_config(self)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **options: Any) -> Any:
        """As in transformers; levels and options given here replace what was set on the layers since as well."""
        made: Any = super().from_dict(config_dict, **options)  # pyright: ignore[reportAttributeAccessIssue]  # the host's
        given = {name: value for name, value in options.items() if name in ("pst_levels", "pst_options")}
        if given and "pst_settings" not in options:
            config = made[0] if isinstance(made, tuple) else made
            for name, value in _settings_beside(config, given).items():
                setattr(config, name, value)
        return made


class PSTRTDetrConfig(PSTConfig, RTDetrConfig):
    """RT-DETR with PST; see `PSTConfig` and `transformers.RTDetrConfig`.

    Examples:
        >>> PSTRTDetrConfig(pst_levels=[16], pst_options={"topk": 8}).pst_levels
        [16]
    """

    model_type = "pst_rt_detr"


class PSTRTDetrV2Config(PSTConfig, RTDetrV2Config):
    """RT-DETRv2 with PST; see `PSTConfig` and `transformers.RTDetrV2Config`.

    Examples:
        >>> PSTRTDetrV2Config(pst_levels=[16], pst_options={"topk": 8}).pst_levels
        [16]
    """

    model_type = "pst_rt_detr_v2"


class PSTDFineConfig(PSTConfig, DFineConfig):
    """D-FINE with PST; see `PSTConfig` and `transformers.DFineConfig`.

    Examples:
        >>> PSTDFineConfig(pst_levels=[16], pst_options={"topk": 8}).pst_levels
        [16]
    """

    model_type = "pst_d_fine"


def _settings_beside(config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of the settings that a model was saved with, where levels or options are given anew.

    Args:
        config: Of the model, with what is given.
        given: Options that replace those of the configuration, by name.

    Returns:
        "pst_settings" and "pst_calibrated".
    """
    strides, levels = fusion_strides(config), chosen_strides(config, config.pst_levels)
    named, saved, calibrated = named_settings(given), config.pst_settings, config.pst_calibrated

    def is_there(name: Any) -> bool:
        found = re.search(r"fpn_blocks\.(\d+)\.", str(name))
        return found is None or int(found[1]) >= len(strides) or strides[int(found[1])] in levels

    if isinstance(saved, Mapping):
        saved = {name: _without(values, named) for name, values in saved.items() if is_there(name)}
    if isinstance(calibrated, (list, tuple)):
        calibrated = [name for name in calibrated if is_there(name)]
    return {"pst_settings": saved, "pst_calibrated": calibrated}


def _without(values: Any, named: Collection[str]) -> Any:
    return {k: v for k, v in values.items() if k not in named} if isinstance(values, Mapping) else values


def fusion_strides(config: Any) -> list[int]:
    """Stride of the finer map of every top-down fusion of a host's encoder, in the order in which they run."""
    return list(config.feat_strides)[: len(config.encoder_in_channels) - 1][::-1]


def chosen_strides(config: Any, levels: Any) -> list[int]:
    """Those that ``levels`` names, None for all.

    Raises:
        TypeError: ``levels`` is not a list of integers.
        ValueError: It is empty, or names a stride that no fusion has.
    """
    strides = fusion_strides(config)
    if levels is None:
        return strides
    if not isinstance(levels, (list, tuple)) or any(type(level) is not int for level in levels):
        raise TypeError(f"levels must be a list of strides, such as {strides}, got {levels!r}")
    if not levels or not set(levels) <= set(strides):
        raise ValueError(f"levels must be some of {strides}, the strides of the fusions' finer maps, got {levels!r}")
    return [stride for stride in strides if stride in levels]


def check_config(config: Any) -> None:
    """Raise TypeError or ValueError unless PST layers can be built as ``config`` says; nothing large is built."""
    chosen_strides(config, config.pst_levels)
    options = {} if config.pst_options is None else config.pst_options
    if not isinstance(options, Mapping):
        raise TypeError(f"pst_options must be a mapping, got {options!r:.80}")
    known = sorted(LayerOptions.__optional_keys__)
    if unknown := sorted(map(str, options.keys() - set(known))):
        raise ValueError(f"pst.PST has no option {', '.join(unknown)[:80]}: choose among {', '.join(known)}")
    depth = options.get("depth", 1)
    if type(depth) is not int or depth < 1:
        raise ValueError(f"depth must be an integer ≥ 1, got {depth!r:.80}")
    try:
        with torch.device("meta"):
            build_layer(config, depth=1)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(
            f"no PST layer of {config.encoder_hidden_dim} channels can be built with {dict(options)!r:.200}: "
            f"{first_line(error)}"
        ) from error


def build_layer(config: Any, **changes: Any) -> PST:
    """A fresh PST layer as a configuration says, some of its options changed."""
    options = {**({} if config.pst_options is None else config.pst_options), **changes}
    if "selection" in options:
        options["selection"] = from_plain(options["selection"])
    width = config.encoder_hidden_dim
    return PST(width, width, width, **options)
