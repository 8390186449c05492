"""Boxes with names on a picture, the same look for ground truth and predictions of any detector.

Drawn by Pillow. `torchvision.utils.draw_bounding_boxes` writes names over the objects and cuts them off at the right
edge of the picture; before torchvision 0.22 they have no ground and cannot be read on a bright one.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pst.visualize._pillow import require_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

_GOLDEN = 0.618034  # steps of the golden ratio around the hue circle come close to an earlier one after `_APART`
_APART = 7
_SHADES = ((0.62, 1.0), (0.4, 0.75), (0.35, 1.0))  # saturation and value, for one round of `_APART` after the other
_MARGIN = 2


def draw_boxes(
    image: Image,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[str],
    classes: Sequence[int],
    *,
    scale: int = 2,
    font_size: int = 13,
) -> Image:
    """Draw boxes in their class's colour with a small tag above each (below it at the picture's upper edge).

    Args:
        image: Picture; one with an EXIF orientation is turned upright first.
        boxes: n of (left, top, right, bottom) in pixels of ``image``, upright.
        labels: n texts of the tags.
        classes: n class indices, which pick the colours.
        scale: Whole factor by which the picture is enlarged first, so that tags do not hide small objects.
        font_size: Height of the tags' letters in pixels of the enlarged picture.

    Returns:
        A new RGB image, ``scale`` times as large.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: ``boxes``, ``labels`` and ``classes`` differ in number, or ``image`` has pixels without a fixed
            white.
    """
    require_pillow()
    from PIL import Image as PillowImage
    from PIL import ImageDraw, ImageFont

    from pst.io.image_file import as_rgb

    if not len(boxes) == len(labels) == len(classes):
        raise ValueError(f"got {len(boxes)} boxes, {len(labels)} labels and {len(classes)} classes: give one of each")
    image = as_rgb(image)
    size = (image.width * scale, image.height * scale)
    out = image.resize(size, PillowImage.Resampling.BICUBIC)
    draw = ImageDraw.Draw(out)
    font = ImageFont.load_default(font_size)
    for box, label, index in zip(boxes, labels, classes, strict=True):
        color = class_color(index)
        label = "".join(c if c.isprintable() else " " for c in label)
        left, top, right, bottom = (round(edge * scale) for edge in box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=2)
        width, height = round(draw.textlength(label, font)) + 2 * _MARGIN, font_size + _MARGIN
        tag_left = min(max(left, 0), max(0, size[0] - width))
        tag_top = top - height if top >= height else bottom
        draw.rectangle((tag_left, tag_top, tag_left + width, tag_top + height), fill=color)
        draw.text((tag_left + _MARGIN, tag_top), label, fill=(0, 0, 0), font=font)
    return out


def class_color(index: int) -> tuple[int, int, int]:
    """A bright colour on which black text is legible, RGB 0 to 255, the same for a class everywhere.

    The first fourteen are easy to tell apart, the first twenty-one not hard.
    """
    shade = _SHADES[index // _APART % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb((0.13 + index * _GOLDEN) % 1, *shade)
    return round(red * 255), round(green * 255), round(blue * 255)
