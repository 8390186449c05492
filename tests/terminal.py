"""A terminal that does not say how wide it is, as in some containers."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Terminal(io.StringIO):
    """Standard errors on it; what is written is kept."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def fileno(self) -> int:
        """Its end of a pseudo-terminal."""
        return self._number

    def isatty(self) -> bool:
        """It is one."""
        return True


@contextmanager
def terminal_without_size() -> Iterator[Terminal]:
    """Open a pseudo-terminal; without any, as on Windows, the test is skipped."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    ends = pty.openpty()
    try:
        assert os.get_terminal_size(ends[1]).columns == 0
        yield Terminal(ends[1])
    finally:
        for end in ends:
            os.close(end)
