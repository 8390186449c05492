"""A live loop: the first frame's mask carried to each frame as it comes, from a camera or a file.

    python examples/live_loop.py clip.mp4 first.png --out live.mp4
    python examples/live_loop.py /dev/video0 first.png --format v4l2 --show

The mask is a PNG of the frame's size: labels, 0 for the ground. ``--show`` opens a window (OpenCV); press q to end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from pst.io.image_file import read_indices
from pst.propagate import Propagator
from pst.visualize.boxes import class_color

COLOURS = np.array([(0, 0, 0), *(class_color(i) for i in range(1, 255)), (128, 128, 128)], np.uint8)


def frames(source: str, kind: str | None) -> Iterator[np.ndarray]:
    """RGB frames of a file, or of a camera: there ``kind`` is v4l2 (Linux), avfoundation (macOS) or dshow (Windows)."""
    with av.open(source, format=kind) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def overlay(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Half frame, half colour where there is a label."""
    painted = mask > 0
    out = frame.copy()
    out[painted] = frame[painted] // 2 + COLOURS[mask[painted]] // 2
    return out


def main(argv: list[str] | None = None) -> int:
    """Run the loop; the number of frames."""
    parser = argparse.ArgumentParser(description="Carry a mask along a live stream.")
    parser.add_argument("source", help="video file, or camera")
    parser.add_argument("mask", help="PNG of labels of the first frame")
    parser.add_argument("--format", help="of a camera: v4l2, avfoundation, dshow")
    parser.add_argument("--size", type=int, default=480, help="smaller is faster (%(default)s)")
    parser.add_argument("--out", help="video to write")
    parser.add_argument("--show", action="store_true", help="open a window")
    args = parser.parse_args(argv)

    propagator = Propagator(size=args.size)
    container: Any = av.open(args.out, "w") if args.out else None
    stream: Any = None
    count, begun = 0, time.perf_counter()
    for count, frame in enumerate(frames(args.source, args.format), 1):
        frame = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]  # video wants even sizes
        if count == 1:
            mask = read_indices(args.mask)[: frame.shape[0], : frame.shape[1]]
            try:
                propagator.add(frame, mask)
            except (TypeError, ValueError) as error:
                raise SystemExit(f"{args.mask}: {error}") from error
        else:
            mask = propagator.step(frame)
        picture = overlay(frame, mask)
        if container is not None:
            if stream is None:
                stream = container.add_stream("mpeg4", rate=25)
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if args.show:
            import cv2

            cv2.imshow("pst", picture[..., ::-1])
            if cv2.waitKey(1) == ord("q"):
                break
    if container is not None:
        container.mux(stream.encode() if stream is not None else [])
        container.close()
    print(f"{count} frames, {count / (time.perf_counter() - begun):.2f} a second")
    return count


if __name__ == "__main__":
    main()
