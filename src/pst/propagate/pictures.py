"""What was carried, shown over the frames: one frame, a contact sheet, a video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pst.io.files import explained, replacing
from pst.propagate.sequence import Frames
from pst.propagate.video import import_av
from pst.visualize.boxes import class_color

_OPACITY = 0.45
_TICKS = (
    60_000  # units of time a second in a video: most frame rates are whole in it, and MPEG-4 takes no more than 65,535
)
_SHOWN = 12  # frames of a sheet
_COLUMNS = 4
_THUMB = 320  # longer side of a frame on a sheet, in pixels
_TITLE = 20
_SWATCH = 14  # edge of a colour below the frames
_ENTRY = 48  # width of a colour with its label
_LETTERS = 24  # of a name that are shown
_LEAST_SURE = 0.2  # confidence below which a point is drawn as a ring

Shown = Callable[[int], tuple["NDArray[np.uint8] | None", "NDArray[np.float32] | None"]]
"""Frame -> its mask (H, W), and its points (P, 3): x, y, confidence."""


def overlay(
    frame: NDArray[np.uint8],
    mask: NDArray[np.uint8] | None,
    points: NDArray[np.float32] | None,
    palette: Sequence[int],
) -> NDArray[np.uint8]:
    """Labels in their colours over a frame, borders in full colour, points as discs; black labels are not painted.

    Args:
        frame: (H, W, 3) RGB.
        mask: (H, W) labels.
        points: (P, 3) x, y and confidence; those that are hardly seen become rings.
        palette: 256 colours R, G, B, ….

    Returns:
        (H, W, 3) RGB.
    """
    out = np.array(frame)
    if mask is not None:
        colours = np.array(palette, np.uint8).reshape(-1, 3)
        painted = np.any(colours, axis=1)[mask]
        share = np.where(_borders(mask), 1.0, _OPACITY)[painted, None]
        out[painted] = (out[painted] * (1 - share) + colours[mask[painted]] * share).round().astype(np.uint8)
    if points is not None:
        image = Image.fromarray(out)
        draw, radius = ImageDraw.Draw(image), max(2, round(max(out.shape) / 160))
        for i, (x, y, sure) in enumerate(points.tolist()):
            box, colour = (x - radius, y - radius, x + radius, y + radius), class_color(i)
            draw.ellipse(box, fill=colour if sure >= _LEAST_SURE else None, outline=(0, 0, 0))
        out = np.array(image)
    return out


def _borders(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    out = np.zeros(mask.shape, bool)
    rows, columns = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    out[1:] |= rows
    out[:-1] |= rows
    out[:, 1:] |= columns
    out[:, :-1] |= columns
    return out


def write_sheet(frames: Frames, shown: Shown, given: Iterable[int], palette: Sequence[int], path: Path) -> None:
    """A JPEG of about a dozen frames, first, last and annotated ones among them, which are framed and say so.

    Below them stands which colour is which label, of the labels that are painted.
    """
    given = sorted(given)
    tile = _tile(frames.size)
    chosen = {round(i) for i in np.linspace(0, len(frames) - 1, min(_SHOWN, len(frames)))} | set(given[:_SHOWN])
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * (tile[0] + 4), rows * (tile[1] + _TITLE + 4)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    labels: set[int] = set()
    for place, index in enumerate(sorted(chosen)):
        left, top = place % columns * (tile[0] + 4) + 2, place // columns * (tile[1] + _TITLE + 4) + 2
        [frame] = frames.read(index, index + 1)
        mask, points = shown(index)
        if mask is not None:
            labels.update(np.unique(mask).tolist())
        picture = Image.fromarray(overlay(frame, mask, points, palette)).resize(tile, Image.Resampling.BICUBIC)
        sheet.paste(picture, (left, top + _TITLE))
        text = _title(frames, index) + (", given" if index in given else "")
        draw.text((left + 2, top + 2), text, fill=(0, 0, 0), font=font)
        if index in given:
            draw.rectangle((left - 1, top + _TITLE - 1, left + tile[0], top + _TITLE + tile[1]), outline="red", width=2)
    with replacing(path) as part:
        whole = _with_labels(sheet, sorted(labels), palette)
        whole.save(part, format="JPEG", quality=90, subsampling=0)  # else thin red lines pale


def _with_labels(sheet: Image.Image, labels: Sequence[int], palette: Sequence[int]) -> Image.Image:
    """The sheet, and below it every label that is painted, beside its colour."""
    colours = {label: tuple(palette[3 * label : 3 * label + 3]) for label in labels}
    entries = [(label, colour) for label, colour in colours.items() if any(colour)]
    columns = max(1, sheet.width // _ENTRY)
    rows = -(-len(entries) // columns)
    out = Image.new("RGB", (sheet.width, sheet.height + rows * _TITLE), "white")
    out.paste(sheet)
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(13)
    for place, (label, colour) in enumerate(entries):
        left, top = place % columns * _ENTRY + 2, sheet.height + place // columns * _TITLE + 2
        draw.rectangle((left, top, left + _SWATCH, top + _SWATCH), fill=colour)
        draw.text((left + _SWATCH + 4, top), str(label), fill=(0, 0, 0), font=font)
    return out


def _title(frames: Frames, index: int) -> str:
    """Number and, of an image in a folder, its name, which the files made of it have."""
    name = frames.names[index]
    return f"frame {index}" if name == f"{index:06d}" else f"frame {index}: {name[:_LETTERS]}"


def _tile(size: tuple[int, int]) -> tuple[int, int]:
    scale = _THUMB / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def write_video(frames: Frames, shown: Shown, palette: Sequence[int], path: Path) -> None:
    """An MP4 of all frames, shown when they are in the clip: H.264, or MPEG-4 where PyAV cannot write that.

    An odd width or height gets one more pixel, the last repeated.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: PyAV cannot write it.
    """
    av = import_av()
    with replacing(path) as part, explained(f"{path} cannot be written"), av.open(part, "w", format="mp4") as container:
        stream = _stream(av, container, frames)
        ticks = _ticks(frames)
        for index, frame in enumerate(frames.read()):
            pixels = overlay(frame, *shown(index), palette)
            height, width = pixels.shape[:2]
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            picture.time_base = Fraction(1, _TICKS)
            picture.pts = ticks[index]
            picture.duration = ticks[index + 1] - picture.pts
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _ticks(frames: Frames) -> list[int]:
    """When each frame is shown, rising, and when the last one ends."""
    ticks: list[int] = []
    for seconds in frames.seconds:
        least = ticks[-1] + 1 if ticks else 0
        ticks.append(max(least, round(seconds * _TICKS)))
    return [*ticks, ticks[-1] + max(1, round(_TICKS / frames.rate))]


def _stream(av: Any, container: Any, frames: Frames) -> Any:
    codec = next(name for name in ("libx264", "libopenh264", "mpeg4") if name in av.codecs_available)
    stream = container.add_stream(codec, rate=frames.rate)
    stream.width, stream.height = (n + n % 2 for n in frames.size)
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, _TICKS)
    stream.codec_context.thread_count = 1  # encoding is the small part
    if codec == "libx264":
        stream.options = {"crf": "20", "preset": "veryfast"}
    else:
        stream.bit_rate = max(500_000, round(stream.width * stream.height * float(frames.rate) / 5))
    return stream
