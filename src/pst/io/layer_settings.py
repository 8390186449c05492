"""What was set on the PST layers of a finished model, as JSON, and back: k, fusion, selection and the like."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from pst.control.layers import find_attention
from pst.io.files import first_line
from pst.modules import ConvNormAct
from pst.modules.settings import Options

SETTINGS = "pst_settings"  # where a config.json has them


def plain_settings(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What may be set at any time on each PST layer of ``model``, by the layer's name.

    Raises:
        TypeError: A layer has a selection rule that JSON cannot describe.
    """
    settings = {name: layer.settings.plain() for name, layer in find_attention(model).items()}
    for name, values in settings.items():
        rule = values["selection"]
        if not isinstance(rule, (str, tuple)):
            raise TypeError(
                f"JSON cannot describe the selection rule {rule!r} of {name}: set one of pst.functional.selection"
            )
    return settings


def named_settings(options: Mapping[str, Any]) -> set[str]:
    """The settings of layers that a caller names among the arguments of a model, in mappings inside them as well."""
    inside = (value for value in options.values() if isinstance(value, Mapping))
    return (set(Options.__optional_keys__) & options.keys()).union(*map(named_settings, inside))


def restore_settings(model: nn.Module, settings: Any, source: object, but: Collection[str] = ()) -> None:
    """Set what `plain_settings` gave, as a file has it.

    Args:
        model: Changed in place.
        settings: By the layer's name.
        source: The file.
        but: Settings that stay as the layers were built, see `named_settings`.

    Raises:
        ValueError: These are not settings of the layers of ``model``; the message names ``source``.
    """
    layers = find_attention(model)
    try:
        for name, values in settings.items():
            kept = {each: value for each, value in values.items() if each not in but}
            layers[name].settings = layers[name].settings.changed(kept)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source} has {SETTINGS} that are none of its model's: {first_line(error)}") from error


def refuse_folded(model: nn.Module) -> None:
    """Raise ValueError for a model after `pst.fuse`: what is built from its description would not take its weights."""
    folded = [name for name, m in model.named_modules() if isinstance(m, ConvNormAct) and m.folded]
    if folded:
        raise ValueError(f"this model is fused (its {folded[0]} has no BatchNorm any more): save it before pst.fuse")
