"""Work that does not end by itself, for tests of what becomes of its process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock


class Sleeper:
    """Called, or loaded from a pickle: holds the lock ``sleeping.lock`` of a folder, writes ``begun`` there, sleeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return _sleep, (self.folder,)

    def __call__(self, *args: Any) -> NoReturn:
        _sleep(self.folder)


class Called(Sleeper):
    """A `Sleeper` that is loaded from a pickle without ado."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Called, (self.folder,)


def _sleep(folder: Path) -> NoReturn:
    with FileLock(folder / "sleeping.lock"):
        (folder / "begun").touch()
        while True:
            time.sleep(60)
