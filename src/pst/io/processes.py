"""Processes that are started for a piece of work."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process, with exit code 1, as soon as the one that started it is gone, killed perhaps.

    Raises:
        RuntimeError: It was not started by `multiprocessing`.
    """
    if multiprocessing.parent_process() is None:
        raise RuntimeError("this process was not started by multiprocessing: there is no parent to end with")
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
