"""What differs between the tasks: data, model, loss, prediction, metrics. The loop knows nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pst.train.config import ClassifyConfig, Config, DetectConfig, SegmentConfig

if TYPE_CHECKING:
    from pst.train.tasks.base import Task


def make_task(config: Config, classes: tuple[str, ...] | None = None) -> Task:
    """The task that ``config`` belongs to; ``classes`` None reads the names with the data.

    Raises:
        ImportError: A library of the ``train`` extra is not installed.
        TypeError: ``config`` is of no task.
    """
    match config:
        case ClassifyConfig():
            from pst.train.tasks.classify import Classify

            return Classify(config, classes)
        case DetectConfig():
            from pst.train.tasks.detect import Detect

            return Detect(config, classes)
        case SegmentConfig():
            from pst.train.tasks.segment import Segment

            return Segment(config, classes)
        case _:
            raise TypeError(f"expected the configuration of a task, got {type(config).__name__}")
