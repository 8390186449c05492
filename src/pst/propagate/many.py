"""Many clips, one after the other or in several processes; what fails is named, and the others go on."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pst.data.walk import is_hidden, list_folders
from pst.io.files import first_line
from pst.io.processes import end_with_parent
from pst.propagate.clip import propagate_clip
from pst.propagate.network import Network
from pst.propagate.sequence import list_frames, natural_key
from pst.propagate.video import VIDEOS


class Outcome(NamedTuple):
    """What became of one clip.

    Attributes:
        name: Of the clip.
        carried: Frames that were written now; 0 where it was finished already, or failed.
        error: Why it failed, a sentence; None where it did not.
    """

    name: str
    carried: int
    error: str | None


class _Task(NamedTuple):
    clip: Path
    masks: Path
    out: Path
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return self.out.name


def find_clips(folder: Path) -> dict[str, Path]:
    """The clips in a folder by name: its videos, and those of its folders that hold images; {} if it is itself a clip.

    Raises:
        FileNotFoundError: It holds neither images nor clips.
        ValueError: It holds images and clips, or two clips have one name.
    """
    videos = [p for p in folder.iterdir() if p.suffix.lower() in VIDEOS and not is_hidden(p.name) and p.is_file()]
    clips = sorted([*videos, *(f for f in list_folders(folder) if list_frames(f))], key=natural_key)
    if list_frames(folder):
        if videos:
            raise ValueError(
                f"{folder} holds images and videos: is it a clip, or a folder of clips? Take one kind away"
            )
        return {}
    if not clips:
        raise FileNotFoundError(
            f"{folder} holds neither images nor videos, nor folders of images: give a video, a folder of images, or a "
            "folder of such clips"
        )
    found: dict[str, Path] = {}
    for clip in clips:
        name = clip.name if clip.is_dir() else clip.stem
        other = found.setdefault(name, clip)
        if other is not clip:
            raise ValueError(f"{other} and {clip} are clips of one name: rename one")
    return found


def propagate_clips(
    clips: str | Path,
    masks: str | Path,
    out: str | Path,
    *,
    jobs: int = 1,
    network: Network | None = None,
    **options: Any,
) -> Iterator[Outcome]:
    """Run `pst.propagate.clip.propagate_clip` on every clip of a folder; what is finished is skipped.

    Args:
        clips: Folder of videos, of folders of images, or both.
        masks: Folder with a folder of masks for each clip, named as the clip.
        out: Folder for a folder of results for each clip, named as the clip.
        jobs: Clips at a time, each in a process of its own with its share of torch's threads.
        network: What frames are matched by.
        **options: Of `propagate_clip`.

    Yields:
        What became of each clip, in the order in which they end.

    Raises:
        FileNotFoundError: There is no clip, or no folder of masks.
        ValueError: ``clips`` is a clip itself, or two clips have one name.
    """
    found = find_clips(Path(clips))
    if not found:
        raise ValueError(f"{clips} is one clip of images: expected a folder of clips")
    if not Path(masks).is_dir():
        raise FileNotFoundError(f"no folder of masks at {masks}")
    network = Network() if network is None else network
    tasks = [
        _Task(clip, Path(masks) / name, Path(out) / name, {**options, "network": network})
        for name, clip in found.items()
    ]
    yield from map(_attempt, tasks) if jobs == 1 else _in_processes(tasks, jobs)


def _attempt(task: _Task) -> Outcome:
    try:
        result = propagate_clip(task.clip, task.masks, task.out, **task.options)
    except Exception as error:  # whatever it is, the other clips are none the worse
        kind = "" if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
        return Outcome(task.name, 0, f"{kind}{first_line(error)}")
    return Outcome(task.name, result.carried, None)


def _in_processes(tasks: list[_Task], jobs: int) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    waiting: deque[_Task] = deque(tasks)
    running: dict[Any, tuple[_Task, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(task, threads, theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = task, process
            ended: list[Any] = wait(list(running))
            for ready in ended:
                task, process = running.pop(ready)
                try:
                    outcome = ready.recv()
                except EOFError:
                    outcome = Outcome(task.name, 0, "its process was killed, perhaps for want of memory")
                process.join()
                yield outcome
    finally:
        for _, process in running.values():
            process.terminate()


def _work(task: _Task, threads: int, answer: Any) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    answer.send(_attempt(task))
