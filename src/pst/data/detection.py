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
from torch import Tensor

from pst.data.coco import read_coco
from pst.data.images import Boxes, Split
from pst.data.paths import absent, entry_of, is_there, other_task, root_of
from pst.data.yaml_file import read_mapping
from pst.data.yolo import read_yolo
from pst.io.names import counted, listed

_LOG = logging.getLogger(__name__)


def read_boxes(
    data: str | Path, split: str, classes: tuple[str, ...] | None = None, *, segments: bool = False
) -> Split:
    """List the images and objects of one split; nothing is decoded.

    Boxes are clipped to the image. Those without an area in it are left out, and of equal objects one counts; the log
    says how many.

    Args:
        data: The YAML file, or a folder with a ``data.yaml``.
        split: "train", "val", ...
        classes: The training split's, by whose order a COCO file's categories are numbered; None takes those of the
            file.
        segments: Keep the objects' segmentations, which must all be there: COCO alone has them.

    Returns:
        Files, `Boxes`, names.

    Raises:
        FileNotFoundError: A file or folder that is named does not exist, or no image of a YOLO split has a label file.
        ValueError: The YAML file, a JSON file or a label file is malformed, a class index is out of range, or a class
            has no object in the training split; the message names file and line, or the annotation.
    """
    path = Path(data)
    if not is_there(path):
        raise FileNotFoundError(absent(path, "the folder of a data set, with data.yaml in it, or a YAML file"))
    if path.is_dir():
        path = path / "data.yaml"
        if not is_there(path):
            raise FileNotFoundError(
                f"{path.parent} has no data.yaml, which names the images and classes of boxes: write one as in "
                f"docs/train.md{other_task(path.parent, 'detect')}"
            )
    spec = read_mapping(path, text=True)
    entry = entry_of(spec, split)
    if entry is None:
        raise ValueError(f"{path} has no split {split!r}: add `{split}: images/{split}`")
    root = root_of(spec, path)
    if isinstance(entry, Mapping):
        result = read_coco(root, entry, path, classes, segments=segments)
    elif segments:
        raise ValueError(f"{path}, {split}: masks of objects need a COCO file, or train a model of boxes")
    else:
        result = read_yolo(root, entry, path, spec)
    result = _counted(result, f"{path}, {split}")
    if split == "train":
        seen = set(torch.cat([target.labels[~target.crowd] for target in result.targets]).tolist())
        empty = [name for i, name in enumerate(result.classes) if i not in seen]
        if empty:
            raise ValueError(f"no training image of {path} shows: {listed(empty)}. Remove the class or add images.")
    return result


def _counted(split: Split, where: str) -> Split:
    """Leave out boxes without an area, and all but the first of equal objects, and say how many."""
    targets: list[Boxes] = []
    empty: list[Path] = []  # the image of each box
    again: list[Path] = []
    for image, target in zip(split.images, split.targets, strict=True):
        real = target.only((target.boxes[:, 2:] > target.boxes[:, :2]).all(1))
        targets.append(real.only(_firsts(real)))
        empty += [image] * (len(target.labels) - len(real.labels))
        again += [image] * (len(real.labels) - len(targets[-1].labels))
    if empty:
        what = counted(len(empty), "box", "boxes")
        _LOG.warning("%s: left out %s without an area, the first of %s", where, what, empty[0])
    if again:
        what = counted(len(again), "object that is", "objects that are")
        _LOG.warning("%s: left out %s listed twice, the first of %s", where, what, again[0])
    return split._replace(targets=targets)


def _firsts(target: Boxes) -> Tensor:
    """(n,) bool: which objects no earlier one equals in class, box and being a crowd."""
    seen: set[tuple[float, ...]] = set()
    rows = torch.cat([target.boxes, target.labels[:, None], target.crowd[:, None]], 1).tolist()
    keep = []
    for row in map(tuple, rows):
        keep.append(row not in seen)
        seen.add(row)
    return torch.tensor(keep, dtype=torch.bool)
