"""The class of every pixel in colours over a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pst.visualize._pillow import require_pillow
from pst.visualize.boxes import class_color

if TYPE_CHECKING:
    from PIL.Image import Image

_OPACITY = 0.55


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
