"""Carrying through one clip, frame by frame, into files; after an interruption as if there had been none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pst.profile.bar import bar
from pst.propagate.masks import read_mask, write_mask
from pst.propagate.network import Network
from pst.propagate.points import Tracks, points_of, read_points, write_points
from pst.propagate.propagator import Propagator
from pst.propagate.run_folder import RunFolder
from pst.propagate.sequence import Frames
from pst.propagate.setting import Setting

LOG = logging.getLogger("pst.propagate")


class Job(NamedTuple):
    """One clip and what is carried through it."""

    frames: Frames
    masks: dict[int, NDArray[np.uint8]]
    tracks: Tracks | None
    palette: list[int]
    folder: RunFolder

    @property
    def given(self) -> list[int]:
        """Annotated frames, rising."""
        return sorted(self.masks) if self.tracks is None else sorted(self.tracks.xy)

    def annotation(self, index: int) -> tuple[Any, Any]:
        """Mask and points of an annotated frame, None for what it has not."""
        return self.masks.get(index), None if self.tracks is None else self.tracks.xy[index]

    def write_annotation(self, index: int) -> None:
        """Write an annotated frame as it was given."""
        mask, where = self.annotation(index)
        self.write(index, mask, where, None if where is None else np.ones(len(where), np.float32))

    def written(self, index: int) -> tuple[Any, Any]:
        """Mask and points of a frame that is done."""
        file = self.folder.points_of(index)
        where = None if self.tracks is None else points_of(read_points(file), file, self.tracks.ids)
        return read_mask(self.folder.mask_of(index), self.frames) if self.masks else None, where

    def shown(self, index: int) -> tuple[Any, Any]:
        """Mask and points with confidence, as pictures show them."""
        mask, where = self.written(index)
        if where is None:
            return mask, None
        sure = [float(line[4]) for line in read_points(self.folder.points_of(index))]
        return mask, np.column_stack([where, np.array(sure, np.float32)])

    def write(self, index: int, mask: Any, xy: Any, confidence: Any) -> None:
        """Write what was carried to a frame."""
        if mask is not None:
            write_mask(mask, self.palette, self.folder.mask_of(index))
        if self.tracks is not None:
            rows = zip(self.tracks.ids, xy, confidence, strict=True)
            lines = [(index, name, str(x), str(y), str(sure)) for name, (x, y), sure in rows]
            write_points(lines, self.folder.points_of(index))


def carry_through(job: Job, network: Network, setting: Setting, *, progress: bool) -> int:
    """Write every frame that is missing, and those behind it on their way; how many: forward, then backward."""
    first, missing = job.given[0], job.folder.missing()
    ways = [range(first, len(job.frames)), range(first - 1, -1, -1)]
    starts = [next((at for at, i in enumerate(way) if i in missing), len(way)) for way in ways]
    left = [i for way, at in zip(ways, starts, strict=True) for i in way[at:]]
    if set(left) <= set(job.given):  # nothing to carry
        for index in left:
            job.write_annotation(index)
        return len(left)
    propagator = Propagator(network.build(), device=network.device, **asdict(setting))
    for index in job.given:
        mask, where = job.annotation(index)
        [frame] = job.frames.read(index, index + 1)
        propagator.add(frame, mask, points=where, index=index)
    name, total = _printable(job.frames.path.name), len(job.frames)
    behind = total - len(left)  # of an earlier run
    if progress and behind:
        LOG.info("%s: goes on after %d of %d frames", name, behind, total)
    with bar(None, name, total=total, done=behind, unit="frame", enabled=progress) as shown:
        for way, at in zip(ways, starts, strict=True):
            for place in _carry_along(job, propagator, way, at):
                if place < at:
                    continue
                behind += 1
                shown.update()
                if progress and shown.disable and behind * 10 // total > (behind - 1) * 10 // total:
                    LOG.info("%s: %d of %d frames", name, behind, total)
    job.folder.state.unlink(missing_ok=True)
    return len(left)


def _carry_along(job: Job, propagator: Propagator, way: range, at: int) -> Iterator[int]:
    """Carry to the frames of one direction from place ``at`` on, with the memory that a run has there; their places."""
    if at == len(way):
        return
    propagator.forget()
    if propagator.setting.memory == 0:  # no frame needs what the one before it got
        begin = at
    else:
        begin = max((place for place in range(at + 1) if way[place] in job.given), default=0)
    state, numbers = job.folder.read_state()
    if numbers and all(n in way and begin <= way.index(n) < at for n in numbers):
        try:
            propagator.restore(state, {n: next(job.frames.read(n, n + 1)) for n in numbers})
            begin = way.index(numbers[-1]) + 1
        except ValueError:  # damaged: go on from the annotated frame, as without any
            propagator.forget()
    read = job.frames.read(way[begin]) if way.step > 0 else job.frames.read_back(0, way[begin] + 1)
    for place, frame in zip(range(begin, len(way)), read, strict=True):
        index = way[place]
        if index in job.given:  # what went wrong before it ends here
            job.write_annotation(index)
            propagator.forget()
        else:
            mask = propagator.step(frame, index=index)
            job.write(index, mask, *(propagator.points if job.tracks is not None else (None, None)))
            job.folder.write_state(propagator.state())
        yield place


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)
