"""What the page says when something fails: one sentence, without a path of this machine."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from pst.io.files import first_line

_LOG = logging.getLogger(__name__)
_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s'\":,;<>|/\\]+[/\\])+")
_MOST = 600  # letters
_USERS = (ValueError, OSError, ImportError)


def sentence(error: Exception, folders: Iterable[Path] = ()) -> str:
    """One sentence; what is a bug is said to be one, and its traceback goes to the log.

    Args:
        error: Whatever was raised.
        folders: Where files lie that the message may name; of every path the last name is left.
    """
    text = " ".join(_said(error).split())
    for folder in sorted({str(f) for each in folders for f in (each, each.absolute(), each.resolve())}, key=len)[::-1]:
        text = text.replace(f"{folder}/", "").replace(f"{folder}\\", "")
    return _FOLDERS.sub("", text)[:_MOST]


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None and error.filename is not None:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate" in str(error):
        return "there is not enough memory for this: drop a smaller file, or choose a smaller model"
    if isinstance(error, _USERS) and str(error):
        return str(error)
    _LOG.error("the explorer failed", exc_info=error)
    return f"this failed, which is a bug of pst and not of your file: {type(error).__name__}: {first_line(error)}"
