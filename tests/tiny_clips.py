"""Small clips with known truth: two shapes that move over a textured ground, as videos and folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

QUICK: dict[str, Any] = {"size": 64, "ratio": 4, "grid": 6, "scale": 200.0, "nearness": 0.4}
"""Settings for frames of these sizes."""


class Clip(NamedTuple):
    frames: list[NDArray[np.uint8]]
    masks: list[NDArray[np.uint8]]
    centre: list[tuple[float, float]]  # x, y of the middle of the first shape


def patches(images: Tensor) -> Tensor:
    """Features without a network: the colours of 3×3 pixels around each, less their mean."""
    around = F.unfold(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3).view(len(images), 27, *images.shape[2:])
    return around - around.mean((2, 3), keepdim=True)


def moving(count: int = 10, size: tuple[int, int] = (64, 48), seed: int = 0) -> Clip:
    """A red square, label 1, that goes right by 2 pixels a frame, and a blue one, label 2, that goes down by 1."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 160, (height // 4 + 1, width // 4 + 1, 3))
    ground = np.kron(coarse, np.ones((4, 4, 1)))[:height, :width].astype(np.uint8)
    shapes = [rng.integers(0, 60, (12, 12, 3)) for _ in range(2)]
    shapes[0][..., 0] += 190
    shapes[1][..., 2] += 190
    frames, masks, centre = [], [], []
    for i in range(count):
        frame, mask = ground.copy(), np.zeros((height, width), np.uint8)
        for label, (x, y) in enumerate([(4 + 2 * i, 6), (width - 18, 20 + i)], 1):
            frame[y : y + 12, x : x + 12] = shapes[label - 1][: height - y, : width - x]
            mask[y : y + 12, x : x + 12] = label
        frames.append(frame)
        masks.append(mask)
        centre.append((4 + 2 * i + 6, 12))
    return Clip(frames, masks, centre)


def write_folder(clip: Clip, folder: Path, names: Sequence[str] | None = None) -> Path:
    folder.mkdir(parents=True)
    for i, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(folder / f"{f'f{i + 1}' if names is None else names[i]}.png")
    return folder


def write_video(
    clip: Clip,
    path: Path,
    *,
    ticks: Sequence[int] | None = None,
    base: Fraction = Fraction(1, 30),
    codec: str = "libx264rgb",
    keys: int = 4,
    turned: int = 0,
    faststart: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Lossless where the codec is; ``ticks`` are the times of the frames in units of ``base`` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream: Any = container.add_stream(codec, rate=30)
        stream.height, stream.width = clip.frames[0].shape[:2]
        stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "yuv420p"
        stream.options = {"qp": "0", "g": str(keys)} if options is None else options
        stream.codec_context.time_base = base
        if turned:
            stream.set_display_rotation(turned)
        for i, frame in enumerate(clip.frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = i if ticks is None else ticks[i], base
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_mask(mask: NDArray[Any], path: Path, palette: Sequence[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette is not None:
        image.putpalette(list(palette))
    image.save(path)
    return path


def agreement(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    """Mean IoU over the labels of ``wanted``."""
    labels = [int(v) for v in np.unique(wanted)]
    return float(np.mean([((found == v) & (wanted == v)).sum() / ((found == v) | (wanted == v)).sum() for v in labels]))


def read_back(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image)


def picture(seed: int, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """(H, W, 3) smooth noise."""
    small = torch.rand(1, 3, size[0] // 4, size[1] // 4, generator=torch.Generator().manual_seed(seed))
    big = F.interpolate(small, size, mode="bilinear")[0].permute(1, 2, 0)
    return (big * 255).round().byte().numpy()


class Stopping:
    """`patches` that end the run with an interruption at call number ``last``."""

    def __init__(self, last: int = 10**9) -> None:
        self.left = last

    def __call__(self, images: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return patches(images)
