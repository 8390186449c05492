"""The frames of a video file, read by PyAV, which is imported when it is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pst.io.files import first_line
from pst.io.image_file import MOST_PIXELS
from pst.io.versions import install_extra
from pst.propagate.sequence import RATE, Frames

VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
"""Endings of video files."""

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm"  # no playlist, which would open other files


class CorruptVideoError(OSError):
    """A video that is there but cannot be read, or a frame of it; the message names it."""


class VideoFrames(Frames):
    """The frames of a video file, see `open_frames`.

    They are told apart by the times at which they are shown. Where a container does not know these, as an AVI, they are
    counted, and every part is read from the beginning.
    """

    def __init__(self, path: Path) -> None:
        _check_whole(path)
        with _opened(path) as (container, stream):
            times, keys = _times(container, stream, path)
            base, rate = stream.time_base, stream.average_rate
            timed = "avi" not in container.format.name and None not in times and len(set(times)) == len(times)
        if not timed:
            times, keys, base = list(range(_count(path))), [], 1 / Fraction(rate or RATE)
        if not times:
            raise FileNotFoundError(f"no frames in {path}: the video is empty")
        self._timed, self._times, self._keys = timed, sorted(times), sorted(keys)
        seconds = [(t - self._times[0]) * base for t in self._times]
        if rate is None or not 0 < rate <= 1000:
            rate = RATE if seconds[-1] == 0 else (len(times) - 1) / seconds[-1]
        names = [f"{i:06d}" for i in range(len(times))]
        super().__init__(path, names, (0, 0), seconds, Fraction(rate))
        first = next(self.read(0, 1))
        self.size = first.shape[1], first.shape[0]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Frames ``start`` to ``stop`` - 1, see `Frames.read`."""
        stop = len(self._times) if stop is None else min(stop, len(self._times))
        if start >= stop:
            return
        index = start
        with _opened(self.path) as (container, stream):
            key = max((t for t in self._keys if t <= self._times[start]), default=None)
            if key is not None and key > self._times[0]:
                container.seek(key, stream=stream)
            try:
                for count, frame in enumerate(container.decode(stream)):
                    time = frame.pts if self._timed else count
                    if time is None or time < self._times[index]:
                        continue
                    if time > self._times[index]:
                        break
                    yield self._pixels(frame, index)
                    index += 1
                    if index == stop:
                        return
            except _errors() as error:
                raise CorruptVideoError(f"frame {index} of {self.path} cannot be decoded: {_reason(error)}") from error
        raise CorruptVideoError(f"frame {index} of {self.path} cannot be decoded: the video is damaged there")

    def _pixels(self, frame: Any, index: int) -> NDArray[np.uint8]:
        if frame.width * frame.height > MOST_PIXELS:
            raise CorruptVideoError(
                f"frame {index} of {self.path} is {frame.width}×{frame.height}, more than {MOST_PIXELS:,} pixels: make "
                "it smaller"
            )
        if frame.is_corrupt:
            raise CorruptVideoError(f"frame {index} of {self.path} cannot be decoded: the video is damaged")
        pixels = frame.to_ndarray(format="rgb24")
        pixels = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
        if self.size not in ((0, 0), (pixels.shape[1], pixels.shape[0])):
            raise ValueError(
                f"frame {index} of {self.path} is {pixels.shape[1]}×{pixels.shape[0]}, the first "
                f"{self.size[0]}×{self.size[1]}: all frames must have one size"
            )
        return pixels


def import_av() -> Any:
    """PyAV.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(f"videos need PyAV (av), which is not installed: {install_extra('propagate')}") from error
    return av


def _check_whole(path: Path) -> None:
    """Raise CorruptVideoError for a Matroska or WebM file that is shorter than it says: FFmpeg takes what there is."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.startswith(_EBML):
        return
    size, begin = _length(head, len(_EBML))
    begin += size
    if head[begin : begin + 4] != _SEGMENT:
        return
    size, begin = _length(head, begin + 4)
    if size >= 0 and path.stat().st_size < begin + size:
        missing = begin + size - path.stat().st_size
        raise CorruptVideoError(
            f"{path} is cut off: {missing:,} bytes are missing at its end; copy it again, or repair it"
        )


def _length(data: bytes, at: int) -> tuple[int, int]:
    """An EBML element's length, −1 for an unknown one, and where its content begins (RFC 8794, section 4)."""
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    if first == 0 or at + width > len(data):
        return -1, at
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (-1 if value == (1 << 7 * width) - 1 else value), at + width


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and video stream."""
    av = import_av()
    if path.stat().st_size == 0:
        raise CorruptVideoError(f"{path} is an empty file: copy it again")
    with path.open("rb") as file:
        try:
            container = av.open(
                file,
                metadata_errors="replace",
                options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
            )
        except Exception as error:  # PyAV raises of everything for a damaged file
            raise CorruptVideoError(f"{path} is not a video that can be read: {_reason(error)}") from error
        with container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise CorruptVideoError(f"{path} holds no video that can be read")
            context = stream.codec_context
            if context.width * context.height > MOST_PIXELS:
                raise CorruptVideoError(
                    f"{path} is {context.width}×{context.height}, more than {MOST_PIXELS:,} pixels: make it smaller"
                )
            stream.codec_context.thread_count = 1  # decoding is the small part
            yield container, stream


def _times(container: Any, stream: Any, path: Path) -> tuple[list[Any], list[Any]]:
    """When frames are shown, in units of the stream; and the times at which decoding can begin."""
    times, keys = [], []
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.is_corrupt:
                raise CorruptVideoError(f"{path} is cut off after {len(times)} frames: copy it again, or repair it")
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    except _errors() as error:
        raise CorruptVideoError(f"{path} cannot be read after {len(times)} frames: {_reason(error)}") from error
    return times, keys


def _count(path: Path) -> int:
    """Frames that can be decoded."""
    count = 0
    with _opened(path) as (container, stream):
        try:
            for _ in container.decode(stream):
                count += 1
        except _errors() as error:
            raise CorruptVideoError(f"frame {count} of {path} cannot be decoded: {_reason(error)}") from error
    return count


def _errors() -> type[Exception]:
    """What PyAV raises."""
    return import_av().FFmpegError


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the name of a file that it does not know."""
    return getattr(error, "strerror", None) or first_line(error)
