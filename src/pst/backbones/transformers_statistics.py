"""Mean and standard deviation that a network of transformers was trained with: its image processor's."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.image_processing_auto import get_image_processor_config

from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, per_channel
from pst.backbones.transformers_network import PREFIX
from pst.io.files import explained, first_line

_LOG = logging.getLogger(__name__)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def read_statistics(
    source: str | Mapping[str, Any] | PreTrainedConfig, channels: int, revision: str | None = None
) -> Statistics:
    """Mean and standard deviation of images from 0 to 1, for images of so many channels.

    Args:
        source: Name on the Hub or folder, whose image processor says it; a configuration, which says it where a body
            wrote it, see `described`. Where neither does, it is ImageNet's.
        channels: Of the images.
        revision: On the Hub.

    Raises:
        ValueError: What was found are no such numbers.
    """
    if isinstance(source, str):
        fields, name = _processor(source.removeprefix(PREFIX), revision), f"the image processor of {source}"
    else:
        fields, name = dict(source) if isinstance(source, Mapping) else source.to_dict(), "the configuration"
    if fields.get("do_normalize") is False:
        return (0.0,) * channels, (1.0,) * channels
    mean = _numbers(fields.get("image_mean"), IMAGENET_MEAN, channels, f"{name} has image_mean")
    std = _numbers(fields.get("image_std"), IMAGENET_STD, channels, f"{name} has image_std")
    if min(std) <= 0:
        raise ValueError(f"{name} has image_std={list(std)}: wanted are numbers above 0")
    return mean, std


def described(statistics: Statistics) -> dict[str, list[float]]:
    """What a configuration holds of them, as JSON."""
    return {"image_mean": list(statistics[0]), "image_std": list(statistics[1])}


def _processor(name: str, revision: str | None) -> dict[str, Any]:
    try:
        with explained(f"the image processor of {PREFIX}{name} cannot be read", passing=(OSError,)):
            return dict(get_image_processor_config(name, revision=revision))
    except OSError as error:
        if Path(name).is_dir():  # it is damaged: nothing was fetched
            raise ValueError(f"the image processor of {PREFIX}{name} cannot be read: {first_line(error)}") from error
        _LOG.warning(
            "the image processor of %s%s is not at hand (%s): ImageNet's mean and standard deviation are taken",
            PREFIX,
            name,
            first_line(error),
        )
        return {}


def _numbers(values: Any, default: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    if values is None:
        return per_channel(default, channels)
    fits = isinstance(values, (list, tuple)) and len(values) in (3, channels)
    if not fits or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError(f"{name}={str(values)[:80]}: wanted are three numbers, or one for each of {channels} channels")
    return per_channel([float(value) for value in values], channels)
