"""Whether a model and a data set are of the same classes, found out before anything is validated."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pst.integrations.ultralytics.guard import protected, told
from pst.integrations.ultralytics.host import check_det_dataset
from pst.io.names import counted, listed

_LOG = logging.getLogger(__name__)


def check_classes(yolo: Any, data: str | Path, *, single_cls: bool = False) -> None:
    """Refuse a data set of another number of classes than the model's; warn where only their names differ.

    Nothing is checked for classifiers, for data that Ultralytics has to convert first, and for ``single_cls``, where
    all objects are of one class.

    Raises:
        FileNotFoundError: The data set does not exist.
        ValueError: It has more or fewer classes than the model, or the YAML describes no data set.
    """
    single = single_cls or yolo.overrides.get("single_cls")
    if yolo.task == "classify" or single or Path(data).suffix == ".ndjson":
        return
    with told(), protected(not yolo.trust):
        found = check_det_dataset(str(data))
    ours, theirs = ([str(name) for name in names.values()] for names in (yolo.names, found["names"]))
    if len(ours) != len(theirs):
        raise ValueError(
            f"the model has {counted(len(ours), 'class', 'classes')} ({listed(ours)}), the data {len(theirs)} "
            f"({listed(theirs)}): validate it on data of its own classes"
        )
    if ours != theirs:
        _LOG.warning(
            "the model has the classes %s, the data %s: they are compared in this order, whatever their names",
            listed(ours),
            listed(theirs),
        )
