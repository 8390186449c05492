"""Image files: the one place of the project that opens them. It shows what ``cv2.imread`` shows. Needs Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pst.io.files import check_file

EXTENSIONS = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings by which an image is found in a folder."""
MOST_PIXELS = 178_956_970
"""Larger images are refused: a file of 200 kB can hold as many. It is Pillow's own limit."""

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "GIF")  # none that runs another program
_EIGHT_BITS = ("1", "L", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
_TURNS = {  # what undoes an EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


class CorruptImageError(OSError):
    """A file that is there but cannot be decoded; the message names it."""


def read_rgb(path: str | Path) -> Image.Image:
    """Decode an image, upright by its EXIF orientation.

    16-bit images keep the high byte of each value. Transparency is dropped, and of several pages the first is taken.

    Args:
        path: AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF or WebP, whatever its ending.

    Returns:
        An image of mode "RGB".

    Raises:
        FileNotFoundError: There is no such file.
        CorruptImageError: It cannot be decoded, has more than `MOST_PIXELS`, or its pixels are of a kind that has no
            fixed white (32-bit integers, floating point).
    """
    with opened(path) as image:
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened image as `read_rgb` gives it.

    Raises:
        ValueError: Its mode has no fixed white.
    """
    bits = grey_bits(image)
    image.load()  # a TIFF turns itself; a PNG may have its EXIF at the end
    if bits is not None:
        out = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8)).convert("RGB")
    elif image.mode == "P":
        out = image.convert("RGBA").convert("RGB")
    elif image.mode in _EIGHT_BITS:
        out = image.convert("RGB")
    else:
        raise ValueError(f"pixels of mode {image.mode} have no fixed white: save it as RGB or grey of 8 or 16 bits")
    out = upright(out, orientation(image))
    out.info.pop("exif", None)
    return out


def read_indices(path: str | Path) -> NDArray[np.uint8] | NDArray[np.int32]:
    """Decode a mask: the stored numbers, not the colours or shades that they stand for.

    Args:
        path: An image of one channel of 1 to 16 bits, or with a palette. Colour images count where all channels are
            equal and nothing is transparent.

    Returns:
        (H, W), upright by its EXIF orientation; int32 where more than 8 bits are stored.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptImageError: It cannot be decoded.
        ValueError: It is a JPEG, which changes numbers, or its pixels are not numbers; the message says what to do.
    """
    with opened(path) as image:
        lossy, bits, mode = image.format in ("JPEG", "MPO"), grey_bits(image), image.mode
        shade = {"L;2": 85, "L;4": 17}.get(_raw_mode(image)[:3], 1)  # Pillow spreads these over 0 to 255
        image.load()
        pixels, turned = np.asarray(image), orientation(image)
    if lossy:
        raise ValueError(f"{path} is a JPEG, which changes the values: masks must be PNG")
    if mode in ("LA", "RGB", "RGBA", "RGBX"):
        alpha = pixels[..., -1] if mode in ("LA", "RGBA") else None
        colours = pixels if alpha is None else pixels[..., :-1]
        if (colours != colours[..., :1]).any() or (alpha is not None and (alpha != 255).any()):
            raise ValueError(f"{path} is a picture ({mode}), not a mask: give each pixel the index of its class")
        pixels = colours[..., 0]
    elif not (mode in ("1", "L", "P", "I") or bits is not None):
        raise ValueError(f"{path} has pixels of mode {mode}: a mask has one channel of class indices")
    pixels = pixels.astype(np.uint8 if pixels.dtype in (np.uint8, np.bool_) else np.int32)
    stored = Image.fromarray(np.ascontiguousarray(pixels if shade == 1 else pixels // shade))
    return np.asarray(upright(stored, turned))


def read_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels of an image, upright; only its header is read.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptImageError: It cannot be opened.
    """
    with opened(path) as image:
        tags: Any = getattr(image, "tag_v2", {})  # newer versions of Pillow turn the size of a TIFF themselves
        width, height = tags.get(256, image.width), tags.get(257, image.height)
        return (height, width) if orientation(image) >= 5 else (width, height)


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """An image that is not yet decoded; whatever goes wrong inside is a CorruptImageError that names the file."""
    path = check_file(path, "image")
    with path.open("rb") as file:
        try:
            image = _identified(file)
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width}×{image.height} are more than {MOST_PIXELS:,} pixels: make it smaller")  # noqa: TRY301
            yield image
        except Exception as error:  # Pillow raises of everything for a damaged file
            reason = " ".join(str(error).split())
            raise CorruptImageError(f"{path} cannot be decoded: {reason or type(error).__name__}") from error


def _identified(file: IO[bytes]) -> Image.Image:
    """`PIL.Image.open` for our formats alone; Ultralytics replaces that function by one that installs packages."""
    Image.init()
    prefix = file.read(16)
    for name in _FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        found = accept(prefix) if factory is not None and accept is not None else False
        if factory is not None and found and not isinstance(found, str):  # a text says why it can't be read
            file.seek(0)
            return factory(file, "")
    raise ValueError(f"it is none of {', '.join(_FORMATS)}")


def grey_bits(image: Image.Image) -> int | None:
    """Bits of the white of a grey image that has more than 8; None for all others. To be asked before it is loaded."""
    if image.mode.startswith("I;16"):
        return 12 if _raw_mode(image) == "I;12" else 16
    return 16 if image.mode == "I" and image.format in ("PNG", "PPM") else None


def _raw_mode(image: Image.Image) -> str:
    """How an image that is not yet loaded stores its pixels; "" where that is not known."""
    tiles: Any = getattr(image, "tile", None)
    args: Any = tiles[0][3] if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def orientation(image: Image.Image) -> int:
    """1 to 8 as in EXIF; 1, upright, where there is none or it cannot be read, as in OpenCV."""
    tags: Any = getattr(image, "tag_v2", {})
    data = image.info.get("exif")
    try:
        if isinstance(data, bytes):
            tags = Image.Exif()
            tags.load(data)
        value = tags.get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and value in range(1, 9) else 1


def upright(image: Image.Image, turned: int) -> Image.Image:
    """An image without its `orientation`."""
    return image if turned not in _TURNS else image.transpose(_TURNS[turned])
