"""Names and numbers in messages; suggestions for a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any


def nearest(name: Any, known: Sequence[str], cutoff: float = 0.0) -> str:
    """`: did you mean …?` for the known name that is most like ``name``.

    Args:
        name: What was given.
        known: What there is.
        cutoff: Least likeness, 0 to 1; below it nothing is suggested.

    Examples:
        >>> nearest("enc", ["encoder", "neck"])
        ": did you mean 'encoder'?"
    """
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=cutoff)
    return f": did you mean {close[0]!r}?" if close else ""


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in a message, with commas between them; of many the first, and how many more there are."""
    return ", ".join(f"{name:.60}" for name in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def one_line(name: str, longest: int = 80) -> str:
    r"""A name of a file's contents in a message: short, on one line, nothing that a terminal obeys.

    Examples:
        >>> one_line("head\x1b[2J")
        'head\\x1b[2J'
    """
    return repr(name[:longest])[1:-1]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and what it counts, in a message: ``1 image``, ``2 images``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
