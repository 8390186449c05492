"""Output without control characters, for files, pipes and people who set NO_COLOR."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)


class Plain:
    """A text stream in front of another one, whose attributes it has.

    Of a line that was drawn over, as progress bars do, only the last state is written, once the line ends. On a
    terminal only colours are taken out.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal, self._held = stream, stream.isatty(), ""

    def write(self, text: str) -> int:
        """Write text; of a line without an end what is visible so far is held back."""
        if self._terminal:
            self._stream.write(_COLOUR.sub("", text))
            return len(text)
        *lines, held = (self._held + text).replace("\r\n", "\n").split("\n")
        for line in lines:
            self._stream.write(f"{_visible(line)}\n")
        before, _, after = held.rpartition("\r")
        self._held = held if not after or not before else f"\r{after}"
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write all of ``lines``."""
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Write what is held back."""
        held, self._held = _visible(self._held), ""
        self._stream.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """Make standard output and errors plain inside the with block where they are not a terminal or NO_COLOR is set.

    A logger whose stream is a closed pipe is then quiet, as the command itself is.
    """
    before = sys.stdout, sys.stderr
    logs, logging.raiseExceptions = logging.raiseExceptions, False
    streams = [_plain(stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        logging.raiseExceptions = logs
        for stream in streams:
            if isinstance(stream, Plain):
                with suppress(OSError, ValueError):  # a closed pipe
                    stream.finish()


def _plain(stream: Any) -> Any:
    if stream is None or isinstance(stream, Plain):  # without a console; already
        return stream
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # a file's name may hold bytes that are not text
    return stream if stream.isatty() and not os.environ.get("NO_COLOR") else Plain(stream)


def plain(text: str) -> str:
    """Text without escape sequences and control characters."""
    return _ESCAPE.sub("", text)


def _visible(line: str) -> str:
    return plain(line.rstrip("\r").rpartition("\r")[2])


def printable(text: str) -> str:
    """Text without control characters, which names of files and classes may hold."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in plain(text))
