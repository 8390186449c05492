"""What other libraries log, while we use them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logging_at(name: str, level: int) -> Iterator[None]:
    """A logger shows messages of this level and above, inside the with block.

    Args:
        name: Of the logger.
        level: As `logging` has it.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
