"""What is dropped on the page: one image, several of one size, or one short video. Files are untrusted and bounded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pst.io.image_file import EXTENSIONS, CorruptImageError, read_indices, read_rgb, read_size
from pst.propagate.frames import open_frames
from pst.propagate.memory import UNKNOWN
from pst.propagate.video import VIDEOS

MOST_BYTES = 64 * 2**20
MOST_PIXELS = 40_000_000  # of a picture, or of a frame
MOST_FRAMES = 120
PICTURE_EDGE, FRAME_EDGE = 1280, 640  # longer sides that are kept of an only picture, and of several


class Clip(NamedTuple):
    """One or several pictures of one size.

    Attributes:
        names: Of each, to be shown.
        frames: RGB.
        size: (width, height) of the files, before they were made smaller.
    """

    names: tuple[str, ...]
    frames: tuple[Image.Image, ...]
    size: tuple[int, int]


def read_clip(files: Sequence[str | Path]) -> Clip:
    """Decode what was dropped.

    Raises:
        OSError: A file cannot be decoded.
        ValueError: There are too many, one is too large, or they differ in size.
    """
    paths = [Path(file) for file in files]
    if not paths:
        raise ValueError("nothing was dropped: drop an image, images of one size, or a short video")
    for path in paths:
        _check_bytes(path)
    videos = [path for path in paths if path.suffix.lower() in VIDEOS]
    if videos and len(paths) > 1:
        raise ValueError(f"got {videos[0].name} beside other files: drop one video, or images alone")
    return _read_video(videos[0]) if videos else _read_images(paths)


def read_labels(file: str | Path, clip: Clip | None) -> Image.Image | None:
    """A mask of the first frame, as small as the clip is kept: labels 0 to 254, 255 unlabelled; None without a clip.

    Raises:
        OSError: It cannot be decoded.
        ValueError: It is not a mask, or not of the frame's size.
    """
    path = Path(file)
    _check_bytes(path)
    _check_pixels(path.name, read_size(path))
    mask = read_indices(path)
    if mask.max() > UNKNOWN or mask.min() < 0:
        raise ValueError(f"the mask {path.name} holds the label {mask.max()}: expected 0 to {UNKNOWN - 1}")
    if clip is None:
        return None
    if mask.shape != clip.size[::-1]:
        raise ValueError(
            f"the mask {path.name} is {mask.shape[1]}×{mask.shape[0]}, its frame {clip.size[0]}×{clip.size[1]}: "
            "make it of the frame's size"
        )
    return Image.fromarray(mask.astype("uint8")).resize(clip.frames[0].size, Image.Resampling.NEAREST)


def _read_images(paths: Sequence[Path]) -> Clip:
    if len(paths) > MOST_FRAMES:
        raise ValueError(f"got {len(paths)} images: drop {MOST_FRAMES} at most")
    edge = PICTURE_EDGE if len(paths) == 1 else FRAME_EDGE
    frames, first = [], (0, 0)
    for path in paths:
        _check_pixels(path.name, _size(path))
        image = read_rgb(path)
        first = image.size if not frames else first
        if image.size != first:
            raise ValueError(
                f"{path.name} is {image.width}×{image.height}, the first image {first[0]}×{first[1]}: all must have "
                "one size"
            )
        frames.append(_at_most(image, edge))
    return Clip(tuple(path.name for path in paths), tuple(frames), first)


def _size(path: Path) -> tuple[int, int]:
    try:
        return read_size(path)
    except CorruptImageError as error:
        if path.suffix.lower() in EXTENSIONS:
            raise
        raise CorruptImageError(f"{error}; a video ends in {', '.join(sorted(VIDEOS))}") from error


def _read_video(path: Path) -> Clip:
    video = open_frames(path)
    _check_pixels(path.name, video.size)
    if len(video) > MOST_FRAMES:
        raise ValueError(f"{path.name} has {len(video)} frames: cut it to {MOST_FRAMES} at most")
    frames = tuple(_at_most(Image.fromarray(pixels), FRAME_EDGE) for pixels in video.read())
    return Clip(tuple(f"{path.name}, frame {i}" for i in range(len(frames))), frames, video.size)


def _check_bytes(path: Path) -> None:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size / 2**20:.0f} MiB: drop {MOST_BYTES // 2**20} at most")


def _check_pixels(name: str, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"{name} is {size[0]}×{size[1]}: drop {MOST_PIXELS // 10**6} million pixels at most")


def _at_most(image: Image.Image, edge: int) -> Image.Image:
    scale = edge / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(n * scale)) for n in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
