"""The class of every pixel in colours over a picture, and what the colours mean below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pst.visualize._pillow import require_pillow
from pst.visualize.boxes import class_color

if TYPE_CHECKING:
    from PIL.Image import Image

_OPACITY = 0.55
_GAP = 4  # pixels around a colour and its name


def paint_classes(image: Image, mask: Any, *, opacity: float = _OPACITY) -> Image:
    """Paint each pixel in the colour of its class, as `class_color` has it.

    Args:
        image: RGB picture.
        mask: (H, W) uint8 array of class indices, of the picture's size.
        opacity: Of the colours, 0 to 1.

    Returns:
        A new RGB image.

    Raises:
        ImportError: Pillow is not installed.
    """
    require_pillow()
    from PIL import Image as PillowImage

    colours = PillowImage.fromarray(mask)
    colours.putpalette([part for i in range(256) for part in class_color(i)])
    return PillowImage.blend(image, colours.convert("RGB"), opacity)


def name_classes(image: Image, mask: Any, names: Sequence[str], *, font_size: int = 13) -> Image:
    """Put a white strip below a picture that names the colours of `paint_classes`, the largest class first.

    Args:
        image: RGB picture.
        mask: (H, W) uint8 array of class indices.
        names: Of the classes; an index beyond them is called "class N".
        font_size: Height of the letters in pixels.

    Returns:
        A new RGB image, as wide or, for a picture narrower than a name, wider.

    Raises:
        ImportError: Pillow is not installed.
    """
    require_pillow()
    from PIL import Image as PillowImage
    from PIL import ImageDraw, ImageFont

    counts = PillowImage.fromarray(mask).histogram()
    shown = sorted((i for i, count in enumerate(counts) if count), key=lambda i: (-counts[i], i))
    font = ImageFont.load_default(font_size)
    entries = [(class_color(i), names[i] if i < len(names) else f"class {i}") for i in shown]
    widths = [round(font.getlength(name)) + font_size + 4 * _GAP for _, name in entries]
    room, line = max(image.width, *widths), font_size + 2 * _GAP
    places, x, y = [], 0, 0
    for width in widths:
        if x + width > room:
            x, y = 0, y + line
        places.append((x, y))
        x += width
    out = PillowImage.new("RGB", (room, image.height + y + line), "white")
    out.paste(image, (0, 0))
    draw = ImageDraw.Draw(out)
    for (color, name), (left, top) in zip(entries, places, strict=True):
        left, top = left + _GAP, image.height + top + _GAP
        draw.rectangle((left, top, left + font_size, top + font_size), fill=color, outline=(0, 0, 0))
        draw.text((left + font_size + _GAP, top - 1), name, fill=(0, 0, 0), font=font)
    return out
