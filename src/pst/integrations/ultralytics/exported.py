"""What an export is: the file, and what it was made with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pst.integrations.ultralytics.export_write import CLASS_MAPS


class Exported(NamedTuple):
    """What `export` wrote.

    Attributes:
        path: The file or folder.
        format: A key of `pst.export.FORMATS`.
        topk: k, as asked.
        fusion: "gate" or "refine"; "none" for k = 0.
        clamped: Attention layer -> its number of coarse tokens, for layers that have fewer than k: that is their k.
        size: (height, width) in pixels that it was made with, the only one unless dynamic.
        batch: Likewise.
        dynamic: Whether others can be run.
        channels: Of the images.
        task: As Ultralytics calls it.
        stride: The sides of images are multiples of this many pixels.
    """

    path: Path
    format: str
    topk: int
    fusion: str
    clamped: dict[str, int]
    size: tuple[int, int]
    batch: int
    dynamic: bool
    channels: int = 3
    task: str = "detect"
    stride: int = 32

    @property
    def class_map(self) -> bool:
        """Whether the file gives the class of each pixel, (B, H, W), where the model gives scores."""
        return self.task == "semantic" and self.format in CLASS_MAPS
