"""The frames of a clip in order, or backwards in bounded memory; and those of a folder of images."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pst.data.walk import is_hidden
from pst.io.image_file import EXTENSIONS, read_rgb, read_size

RATE = Fraction(24)
"""Frames a second of a folder of images."""

_CHUNK = 2**28  # bytes of frames that are held at once to read backwards


class Frames(ABC):
    """The frames of one clip.

    Attributes:
        path: Video file or folder.
        names: Of each frame, for the files made of it: "000123" in a video, the image's own stem in a folder.
        size: (width, height) of every frame in pixels, upright.
        seconds: When each frame is shown, from 0, rising.
        rate: Frames a second, on average.
    """

    def __init__(
        self, path: Path, names: Sequence[str], size: tuple[int, int], seconds: Sequence[Fraction], rate: Fraction
    ) -> None:
        self.path, self.names, self.size, self.seconds, self.rate = path, names, size, seconds, rate

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Frames ``start`` to ``stop`` - 1, each (height, width, 3) RGB.

        Raises:
            OSError: A frame cannot be decoded; the message names it.
            ValueError: A frame is of another size.
        """

    def read_back(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Frames ``stop`` - 1 down to ``start``, as `read` gives them; a bounded number is held at once."""
        most = max(1, min(64, _CHUNK // (self.size[0] * self.size[1] * 3)))
        while stop > start:
            first = max(start, stop - most)
            yield from reversed(list(self.read(first, stop)))
            stop = first

    def index(self, name: str) -> int:
        """Number of the frame with this name or, if none has it, this number.

        Raises:
            ValueError: There is no such frame.
        """
        if name in self.names:
            return self.names.index(name)
        if name.isdecimal() and len(name) < 19 and int(name) < len(self):
            return int(name)
        numbers = all(name.isdecimal() and int(name) == i for i, name in enumerate(self.names))
        named = "" if numbers else f", or by name, {self.names[0]} …"
        raise ValueError(f"{self.path} has no frame {name[:80]!r}: it has {len(self)}, 0 to {len(self) - 1}{named}")


def list_frames(folder: Path) -> list[Path]:
    """The images in a folder, by their endings, numbers in names in the order of numbers; hidden files left out."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not is_hidden(p.name) and p.is_file())
    return sorted(found, key=natural_key)


def natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """To sort by: frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts], path.name


class ImageFrames(Frames):
    """The images of a folder, see `open_frames`."""

    def __init__(self, path: Path) -> None:
        self.files = list_frames(path)
        if not self.files:
            raise FileNotFoundError(f"no frames in {path}: expected images, or the name of a video file")
        owners: dict[str, Path] = {}
        for file in self.files:
            other = owners.setdefault(unicodedata.normalize("NFC", file.stem).casefold(), file)
            if other is not file:
                raise ValueError(f"{other} and {file.name} are frames of one name: rename one, or move it elsewhere")
        size = read_size(self.files[0])
        for file in self.files[1:]:
            self._check(file, read_size(file), size)
        seconds = [i / RATE for i in range(len(self.files))]
        super().__init__(path, [file.stem for file in self.files], size, seconds, RATE)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Frames ``start`` to ``stop`` - 1, see `Frames.read`."""
        for file in self.files[start:stop]:
            image = read_rgb(file)
            self._check(file, image.size, self.size)
            yield np.array(image)

    def _check(self, file: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        if size != wanted:
            raise ValueError(
                f"{file} is {size[0]}×{size[1]}, the first frame {wanted[0]}×{wanted[1]}: all frames must have one size"
            )
