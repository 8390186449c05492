"""Who works on what, when several processes or machines share a folder."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from pst.io.files import write_text

EXPIRY = 90.0  # seconds without a sign of life after which a claim is free
BEAT = 10.0


class Claim:
    """The right to work on one cell, kept alive by a thread; use it as a context manager after `acquire`.

    A claim is a file that is created exclusively and rewritten every few seconds. One that was not rewritten for
    ``EXPIRY`` seconds, by the shared file system's own clock, or whose process on this machine is gone, is free.

    Args:
        folder: Of the claims, shared.
        name: Of the cell.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.json"
        self.note = ""
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def acquire(self) -> bool:
        """Take it, or return False: someone else has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._create():
            return True
        if self.age() < EXPIRY and not self._orphaned():
            return False
        grave = self.path.with_suffix(f".{self._token}")
        try:
            self.path.rename(grave)  # atomic: one of several takes it away
        except FileNotFoundError:
            return False
        grave.unlink()
        return self._create()

    def _create(self) -> bool:
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(self._content())
        except FileExistsError:
            return False
        return True

    def _content(self) -> str:
        return json.dumps({"host": _host(), "pid": os.getpid(), "token": self._token, "note": self.note})

    def _orphaned(self) -> bool:
        """Whether it is of a process of this machine that has ended."""
        found = _read(self.path)
        if found is None or found["host"] != _host():
            return False
        try:
            os.kill(found["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it lives, and is another user's
            return False
        return False

    def age(self) -> float:
        """Seconds since the last sign of life, by the clock of the file system; 0 when it is just gone."""
        probe = self.path.with_suffix(f".{uuid.uuid4().hex}.probe")
        probe.touch()
        try:
            return probe.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink()

    def held(self) -> bool:
        """Whether it is still this process's own."""
        found = _read(self.path)
        return found is not None and found["token"] == self._token

    def _live(self) -> None:
        while not self._stop.wait(BEAT):
            if not self.held():
                return
            write_text(self.path, self._content())

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self.held():
            self.path.unlink(missing_ok=True)


def running(folder: Path) -> dict[str, str]:
    """Cells that are claimed and alive, with what was last said of each."""
    alive = [path for path in sorted(folder.glob("*.json")) if _modified(path) > time.time() - EXPIRY]
    found = {path.stem: _read(path) for path in alive}
    return {name: content["note"] for name, content in found.items() if content is not None}


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read(path: Path) -> dict[str, Any] | None:
    """A claim's content; None when it is gone, or just being made."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _host() -> str:
    """This machine since it was started: process ids mean nothing elsewhere."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text(encoding='ascii').strip() if boot.is_file() else ''}"
