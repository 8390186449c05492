"""The folder that a run writes: where its files are, what it was made with, and what of it is there already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from pst.io.checkpoints import load_safetensors, save_safetensors
from pst.io.files import check_folder, read_json, write_text

RECORD = "run.json"
LOCK = ".lock"
_TOOL = "pst propagate"


class RunFolder:
    """Files of a run; the state of the run is which of them are there.

    Args:
        path: The folder; it need not exist.
        names: Of the frames.
        masks: Whether the run makes masks.
        points: Whether it makes points.
        video: Whether it makes a video.

    Raises:
        OSError: It cannot be a folder, or not be written to.
    """

    def __init__(self, path: Path, names: list[str], *, masks: bool, points: bool, video: bool) -> None:
        check_folder(path)
        self.path, self.names = path, names
        self.sheet, self.video, self.points = path / "sheet.jpg", path / "overlay.mp4", path / "points.csv"
        self.state = path / "state.safetensors"  # of an unfinished run
        self._folders = [*(["masks"] if masks else []), *(["points"] if points else [])]
        self._summaries = [self.sheet, *([self.points] if points else []), *([self.video] if video else [])]

    def mask_of(self, index: int) -> Path:
        """File of the mask of a frame."""
        return self._mask(self.names[index])

    def points_of(self, index: int) -> Path:
        """File of the points of a frame."""
        return self._points(self.names[index])

    def _mask(self, name: str) -> Path:
        return self.path / "masks" / f"{name}.png"

    def _points(self, name: str) -> Path:
        return self.path / "points" / f"{name}.csv"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder meanwhile.

        Raises:
            ValueError: Another run is at work in it.
        """
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another run is at work in {self.path}: wait for it, or choose another folder") from None
        try:
            yield
        finally:
            (self.path / LOCK).unlink(missing_ok=True)
            lock.release()

    def write_state(self, state: Mapping[str, Tensor]) -> None:
        """Keep what the last frames hold, see `pst.propagate.Propagator.state`."""
        save_safetensors(state, self.state, {"tool": _TOOL})

    def read_state(self) -> tuple[dict[str, Tensor], list[int]]:
        """What was kept last, and its frames' numbers, oldest first; nothing if there is none or it is damaged."""
        try:
            state, _ = load_safetensors(self.state)
        except (FileNotFoundError, ValueError):
            return {}, []
        numbers = [t for t in (state.get(f"{n}.number") for n in range(len(state))) if t is not None and t.numel() == 1]
        return state, [int(t) for t in numbers]

    def missing(self) -> set[int]:
        """Frames of which a file is not there."""
        return {
            i
            for i in range(len(self.names))
            if not all((self.mask_of if f == "masks" else self.points_of)(i).is_file() for f in self._folders)
        }

    def is_finished(self) -> bool:
        """Whether all files are there."""
        return all(path.is_file() for path in self._summaries) and not self.missing()

    def check(self, record: Mapping[str, Any], inputs: Iterable[Path], *, overwrite: bool) -> None:
        """Refuse a folder that a run made with ``record`` must not write to; nothing is written.

        Raises:
            FileExistsError: It holds something else than a run.
            ValueError: It holds a run made with something else, and not ``overwrite``; or one of the ``inputs``.
        """
        here = self.path.resolve()
        for path in inputs:
            if here in (path.resolve(), *path.resolve().parents):
                raise ValueError(
                    f"{path} lies in {self.path}, where results are written: choose another folder for them"
                )
        for folder in (self.path / "masks", self.path / "points"):
            if folder.is_symlink():
                raise ValueError(f"{folder} is a link to another folder, which is not written to: remove it")
        file = self.path / RECORD
        if not file.is_file():
            if self.path.is_dir() and any(not _passing(entry.name) for entry in self.path.iterdir()):
                raise FileExistsError(f"{self.path} is not empty and not of an earlier run: choose another folder")
            return
        before = read_json(file)
        if before.get("tool") != _TOOL:
            raise FileExistsError(f"{file} is not of {_TOOL}: choose another folder")
        differing = list(_differences(before, record))
        if differing and not overwrite:
            raise ValueError(
                f"{self.path} holds a run made with other {', '.join(differing)}: choose another folder, or start "
                "afresh with --overwrite"
            )

    def begin(self, record: Mapping[str, Any], *, overwrite: bool) -> None:
        """Take the folder, once it is checked: go on with the run in it, or write the record of a new one."""
        if overwrite:
            self._clear([*self.names, *self._names_before()])
        if overwrite or not (self.path / RECORD).is_file():
            write_text(self.path / RECORD, json.dumps({"tool": _TOOL, **record}, indent=2) + "\n")

    def _names_before(self) -> list[str]:
        """Names of the frames of the run that is recorded; they may be of another clip."""
        file = self.path / RECORD
        clip = read_json(file).get("clip") if file.is_file() else None
        names = clip.get("names") if isinstance(clip, dict) else None
        names = names if isinstance(names, list) else []
        return [name for name in names if isinstance(name, str) and _is_name(name)]

    def _clear(self, names: Iterable[str]) -> None:
        """Remove what runs write; the record stays until the next one takes its place."""
        for path in (self.sheet, self.video, self.points, self.state):
            path.unlink(missing_ok=True)
        for name in names:  # by name: whatever else lies there is not ours
            self._mask(name).unlink(missing_ok=True)
            self._points(name).unlink(missing_ok=True)


def _is_name(name: str) -> bool:
    """Whether what a record calls a frame's name is one, and no way out of the folder."""
    file = f"{name}.png"
    return file == Path(file).name and "\0" not in file


def _passing(name: str) -> bool:
    """Whether a file is but the lock of a run, or a part of one being written."""
    return name == LOCK or name.endswith(".part")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What makes a difference to the result, in words."""
    was, given = before.get("settings"), now["settings"]
    was = was if isinstance(was, dict) else {}
    for name, value in given.items():
        if was.get(name) != value:
            yield f"{name} ({' '.join(str(was.get(name)).split())[:60]}, now {value})" if name != "weights" else name
    if _digest(before.get("clip")) != _digest(now["clip"]):
        yield f"frames ({_name(before.get('clip'))}, now {_name(now['clip'])})"
    masks = before.get("masks")
    masks, wanted = masks if isinstance(masks, dict) else {}, now["masks"]
    changed = sorted({*masks, *wanted}, key=lambda i: int(i) if str(i).isdecimal() else -1)
    if changed := [i for i in changed if _digest(masks.get(i)) != _digest(wanted.get(i))]:
        yield f"masks (of frame {', '.join(map(str, changed[:5]))}{', …' if len(changed) > 5 else ''})"
    if _digest(before.get("points")) != _digest(now["points"]):
        yield "points"


def _digest(entry: Any) -> Any:
    return entry.get("digest") if isinstance(entry, dict) else None


def _name(entry: Any) -> Any:
    return entry.get("name") if isinstance(entry, dict) else None
