"""The mask of the first frame carried through a video: draws a clip, carries the mask, compares it with the truth.

    python examples/propagate_video.py --out runs/examples/propagate

Writes ``clip.mp4``, and what `pst propagate` writes: masks, ``overlay.mp4`` and ``sheet.jpg``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapes import PALETTE, stamp

from pst.propagate.clip import propagate_clip

SIZE = (192, 128)  # width, height

Array = NDArray[np.uint8]


def draw_clip(count: int) -> tuple[list[Array], list[Array]]:
    """Frames, and the true mask of each: a disc that goes right and a square that goes left, over a still ground."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(60, 150, (SIZE[1] // 8, SIZE[0] // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames, masks = [], []
    for i in range(count):
        frame, mask = ground.copy(), np.zeros(SIZE[::-1], np.uint8)
        stamp(frame, mask, 0, (32, 24 + 6 * i), 14, np.random.default_rng(1))
        stamp(frame, mask, 1, (90, SIZE[0] - 30 - 6 * i), 16, np.random.default_rng(2))
        frames.append(frame)
        masks.append(mask)
    return frames, masks


def write_clip(frames: Sequence[Array], path: Path) -> None:
    """An MP4 of 10 frames a second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main(argv: Sequence[str] | None = None) -> float:
    """Draw, carry, compare; the share of the objects' pixels that are right."""
    parser = argparse.ArgumentParser(description="The mask of the first frame carried through a video.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/propagate"))
    parser.add_argument("--frames", type=int, default=12)
    args = parser.parse_args(argv)

    frames, truth = draw_clip(args.frames)
    args.out.mkdir(parents=True, exist_ok=True)
    write_clip(frames, args.out / "clip.mp4")
    first = Image.fromarray(truth[0])
    first.putpalette(PALETTE)
    first.save(args.out / "first.png")

    result = propagate_clip(args.out / "clip.mp4", {"0": args.out / "first.png"}, args.out / "run", size=384)
    found = [np.array(Image.open(args.out / f"run/masks/{i:06}.png")) for i in range(result.frames)]
    right = [(a == b)[b > 0].mean() for a, b in zip(found[1:], truth[1:], strict=True)]
    print(f"{result.frames} frames, {np.mean(right):.0%} of the objects' pixels right")
    print(f"Look at {args.out / 'run/sheet.jpg'}")
    return float(np.mean(right))


if __name__ == "__main__":
    main()
