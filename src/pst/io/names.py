"""Suggestions for a name that is not known."""

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
