"""Masks of frames: which files belong to which frame, reading, writing, colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pst.io.files import replacing
from pst.io.image_file import opened, read_indices
from pst.propagate.memory import UNKNOWN
from pst.propagate.sequence import Frames, list_frames
from pst.visualize.boxes import class_color

_UNKNOWN_COLOUR = (224, 224, 192)  # of "void" in VOC and DAVIS


def masks_of(pairs: Iterable[tuple[str, Path]], frames: Frames) -> dict[int, Path]:
    """Files of masks by frame, from pairs of a frame's number or name and a file.

    Raises:
        ValueError: There is no such frame, or a frame has two masks.
    """
    found: dict[int, Path] = {}
    for name, path in pairs:
        index = frames.index(name)
        other = found.setdefault(index, path)
        if other is not path:
            raise ValueError(f"two masks for frame {index} of {frames.path}: {other} and {path}")
    return dict(sorted(found.items()))


def masks_in(folder: Path) -> list[tuple[str, Path]]:
    """Pairs of a frame's number or name and a file: the images of a folder.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder of masks at {folder}: give one; a single mask is --mask 0=first.png at the shell"
        )
    files = list_frames(folder)
    if not files:
        raise FileNotFoundError(f"no masks in {folder}: expected PNG files named as the frames that they belong to")
    return [(file.stem, file) for file in files]


def read_mask(path: Path, frames: Frames) -> NDArray[np.uint8]:
    """(height, width) labels of one mask, 255 unlabelled.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a mask, is of another size than the frames, or has a label above 255.
    """
    mask = read_indices(path)
    if mask.shape != frames.size[::-1]:
        raise ValueError(
            f"{path} is {mask.shape[1]}×{mask.shape[0]}, the frames of {frames.path} are "
            f"{frames.size[0]}×{frames.size[1]}: make it of their size"
        )
    if mask.max() > UNKNOWN or mask.min() < 0:
        raise ValueError(
            f"{path} holds the label {mask.max()}: expected 0 to {UNKNOWN - 1}, and {UNKNOWN} for unlabelled"
        )
    return mask.astype(np.uint8)


def write_mask(mask: NDArray[np.uint8], palette: Sequence[int], path: Path) -> None:
    """An 8-bit PNG of the labels, atomically."""
    image = Image.fromarray(mask)
    image.putpalette(list(palette))
    with replacing(path) as part:
        image.save(part, format="PNG")


def palette_of(path: Path | None) -> list[int]:
    """256 colours R, G, B, … of a mask; where it has none, black for 0, bright ones for 1 to 254, pale for 255."""
    given: list[int] = []
    if path is not None:
        with opened(path) as image:
            given = list(image.getpalette("RGB") or []) if image.mode == "P" else []
    ours = [part for i in range(256) for part in _colour(i)]
    return [*given, *ours[len(given) :]][: len(ours)]


def _colour(label: int) -> tuple[int, int, int]:
    if label == 0:
        return 0, 0, 0
    return _UNKNOWN_COLOUR if label == UNKNOWN else class_color(label)
