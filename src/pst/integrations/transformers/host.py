"""The range of transformers versions that is tested, and one clear error for any other."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from pst.backbones.versions import TRANSFORMERS


def check_host() -> None:
    """Raise ImportError unless a version of transformers in the tested range is installed."""
    TRANSFORMERS.check("pst.integrations.transformers")


def incompatible(reason: str) -> ImportError:
    """The one error for a version in the range whose detectors are no longer what pst was written for."""
    return ImportError(f"transformers {version('transformers')} has other detectors than {TRANSFORMERS} had: {reason}")


class _Unchecked:
    """Turns the checks off while anybody in the process wants that: the switch is one variable for all threads."""

    name = "TRANSFORMERS_DISABLE_TORCH_CHECK"

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, os.environ.get(self.name)

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = os.environ.get(self.name)
                os.environ[self.name] = "1"
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._before is None:
                os.environ.pop(self.name, None)
            elif self._users == 0 and self._before is not None:
                os.environ[self.name] = self._before


_UNCHECKED = _Unchecked()


@contextmanager
def unchecked() -> Iterator[None]:
    """Without transformers' checks of values, which the meta device has not and exported programs should not hold."""
    _UNCHECKED.enter()
    try:
        yield
    finally:
        _UNCHECKED.leave()
