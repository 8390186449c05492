"""Detection: a YAML file that points at images with YOLO text labels or at COCO JSON files.

YOLO, as in Ultralytics (labels lie where "images" in a path is replaced by "labels")::

    path: bccd            # optional, relative to this file
    train: images/train   # a folder, a list of folders, or a text file of paths
    val: images/val
    names: {0: RBC, 1: WBC, 2: Platelets}

COCO::

    train: {images: train2017, annotations: annotations/instances_train2017.json}
    val: {images: val2017, annotations: annotations/instances_val2017.json}
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from pst.data.coco import read_coco
from pst.data.images import Split
from pst.data.yaml_file import read_mapping
from pst.data.yolo import read_yolo

_LOG = logging.getLogger(__name__)


def read_boxes(data: str | Path, split: str) -> Split:
    """List the images and objects of one split; nothing is decoded.

    Args:
        data: The YAML file, or a folder with a ``data.yaml``.
        split: "train", "val", ...

    Returns:
        Files, `Boxes`, names.

    Raises:
        FileNotFoundError: A file or folder that is named does not exist.
        ValueError: The YAML file or a label file is malformed, a class index is out of range, or a class has no
            object in the training split; the message names file and line.
    """
    path = Path(data)
    path = path / "data.yaml" if path.is_dir() else path
    spec = read_mapping(path)
    if split not in spec:
        raise ValueError(f"{path} has no split {split!r}: add `{split}: images/{split}`")
    root = path.parent / str(spec.get("path", ""))
    entry = spec[split]
    result = read_coco(root, entry, path) if isinstance(entry, Mapping) else read_yolo(root, entry, path, spec)
    result = _with_area(result, f"{path}, {split}")
    if split == "train":
        seen = set(torch.cat([target.labels[~target.crowd] for target in result.targets]).tolist())
        empty = [name for i, name in enumerate(result.classes) if i not in seen]
        if empty:
            raise ValueError(f"no training image of {path} shows: {', '.join(empty)}. Remove the class or add images.")
    return result


def _with_area(split: Split, where: str) -> Split:
    """Leave out boxes without an area, which real data sets have a few of, and say how many."""
    keep = [(target.boxes[:, 2:] > target.boxes[:, :2]).all(1) for target in split.targets]
    empty = sum(int((~kept).sum()) for kept in keep)
    if empty:
        _LOG.warning("%s: left out %d boxes without an area", where, empty)
    return split._replace(targets=[target.only(kept) for target, kept in zip(split.targets, keep, strict=True)])
