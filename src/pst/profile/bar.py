"""A progress bar on a terminal, and nothing in a pipe or a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(
    items: Iterable[Any] | None, title: str, *, total: float, done: int = 0, enabled: bool = True, **look: Any
) -> tqdm[Any]:
    """Items with a bar that goes away at the end.

    Args:
        items: What is gone through; None where the caller counts with ``update``.
        title: What stands in front.
        total: Of all items.
        done: How many are behind already.
        enabled: False draws nothing on a terminal either.
        **look: Of tqdm, as "unit".
    """
    hidden = None if enabled else True  # None: shown on a terminal only
    return tqdm(items, title, total, initial=done, leave=False, disable=hidden, **_size(), **look)


def _size() -> dict[str, Any]:
    """Of a terminal that says 0, as in some containers and `script`: tqdm would draw nothing. It asks all others."""
    try:
        return {} if os.get_terminal_size(sys.stderr.fileno()).columns else {"ncols": 80, "nrows": 24}
    except (AttributeError, OSError, ValueError):  # no terminal
        return {}
