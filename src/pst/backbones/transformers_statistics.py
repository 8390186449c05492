"""Mean and standard deviation that a network of transformers was trained with: its image processor's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.models.auto import image_processing_auto
from transformers.utils import IMAGE_PROCESSOR_NAME
from transformers.utils.generic import safe_load_json_file

from pst.backbones.channels import IMAGENET_MEAN, IMAGENET_STD, check_statistics, per_channel
from pst.backbones.transformers_network import PREFIX
from pst.io.files import explained, first_line

_LOG = logging.getLogger(__name__)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def read_statistics(source: Any, channels: int, revision: str | None = None) -> Statistics:
    """Mean and standard deviation of images from 0 to 1, for images of so many channels.

    Args:
        source: Name on the Hub or folder, whose image processor says it. Without one, or with a configuration in its
            place, it is ImageNet's.
        channels: Of the images.
        revision: On the Hub.

    Raises:
        ValueError: What was found are no such numbers.
    """
    fields = _processor(source.removeprefix(PREFIX), revision) if isinstance(source, str) else {}
    kind = image_processing_auto.get_image_processor_class_from_name(str(fields.get("image_processor_type")))

    def field(name: str, default: Any) -> Any:
        value = fields.get(name)
        value = getattr(kind, name, None) if value is None else value  # what its class has where the file is silent
        return default if value is None else value

    factor = field("rescale_factor", 1 / 255) if field("do_rescale", True) else 1
    if type(factor) not in (int, float) or not factor > 0:
        raise ValueError(
            f"rescale_factor of the image processor of {source} must be a number above 0, got {str(factor)[:80]!r}"
        )
    scale, found = 255 * factor, []
    for name, default, plain in (("image_mean", IMAGENET_MEAN, 0), ("image_std", IMAGENET_STD, 1)):
        values = field(name, default) if field("do_normalize", True) else [plain] * 3
        numbers = isinstance(values, (list, tuple)) and all(type(value) in (int, float) for value in values)
        found.append([value / scale for value in values] if numbers and scale != 1 else values)
    names = (f"image_mean of the image processor of {source}", f"image_std of the image processor of {source}")
    mean, std = found
    check_statistics(mean, std, channels, names)
    return per_channel(mean, channels), per_channel(std, channels)


def _processor(name: str, revision: str | None) -> dict[str, Any]:
    try:
        with explained(f"the image processor of {PREFIX}{name} cannot be read", passing=(OSError,)):
            found = image_processing_auto.get_image_processor_config(name, revision=revision)
            return dict(found or _own_file(name, revision))
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


def _own_file(name: str, revision: str | None) -> dict[str, Any]:
    """What preprocessor_config.json has, which transformers 5.4.0 fetches and does not read; empty without one."""
    file: object = str(Path(name) / IMAGE_PROCESSOR_NAME)
    if not Path(name).is_dir():  # on the Hub: looked for a moment ago, so it is in the cache if it is anywhere
        file = try_to_load_from_cache(name, IMAGE_PROCESSOR_NAME, revision=revision)
    return safe_load_json_file(file) if isinstance(file, str) and Path(file).is_file() else {}
