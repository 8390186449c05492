"""Opening a clip: a video file, or a folder of images."""

from __future__ import annotations

from pathlib import Path

from pst.propagate.sequence import Frames, ImageFrames
from pst.propagate.video import VIDEOS, VideoFrames


def open_frames(path: str | Path) -> Frames:
    """Look through a clip: no frame is decoded yet.

    Args:
        path: Video file (`VIDEOS`, by its ending), or a folder with images (`pst.io.image_file.EXTENSIONS`).

    Raises:
        FileNotFoundError: There is nothing at ``path``, or no frame in it.
        ImportError: It is a video, and PyAV is not installed.
        OSError: It cannot be read.
        ValueError: It is not a clip, its frames differ in size, or two would have the same name.
    """
    path = Path(path)
    if path.is_dir():
        return ImageFrames(path)
    if not path.is_file():
        raise FileNotFoundError(f"no video or folder of images at {path}: check the path")
    if path.suffix.lower() not in VIDEOS:
        raise ValueError(f"{path} is not a video: expected {', '.join(sorted(VIDEOS))}, or a folder of images")
    return VideoFrames(path)
