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

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from pst.data.images import Split

_LOG = logging.getLogger(__name__)
_EXTENSIONS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Boxes(NamedTuple):
    """What one image shows.

    Attributes:
        boxes: (n, 4) float32, left, top, right, bottom as shares of the image's width and height, in [0, 1].
        labels: (n,) int64 class indices.
        crowd: (n,) bool, regions that count neither for nor against a detector.
        segments: COCO segmentations of the n objects in pixels, or None where there are none.
        size: (width, height) that the annotation states, or None.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    segments: list[Any] | None = None
    size: tuple[int, int] | None = None

    def only(self, keep: Tensor) -> Boxes:
        """The objects for which ``keep``, (n,) bool, is set."""
        segments = None if self.segments is None else [s for s, k in zip(self.segments, keep, strict=True) if k]
        return Boxes(self.boxes[keep], self.labels[keep], self.crowd[keep], segments, self.size)


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
    spec = _read_yaml(path)
    if split not in spec:
        raise ValueError(f"{path} has no split {split!r}: add `{split}: images/{split}`")
    root = path.parent / str(spec.get("path", ""))
    entry = spec[split]
    result = _read_coco(root, entry, path) if isinstance(entry, Mapping) else _read_yolo(root, entry, path, spec)
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


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no data set file at {path}: give a data.yaml or the folder that holds it")
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(spec, dict):
        raise ValueError(f"{path} must hold `key: value` lines")  # noqa: TRY004 the file is wrong, not a type
    return spec


# ---------------------------------------------------------------------------------------------------------------- YOLO


def _read_yolo(root: Path, entry: Any, path: Path, spec: Mapping[str, Any]) -> Split:
    names = spec.get("names")
    if isinstance(names, Mapping):
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"{path}: the keys of names must be 0, 1, 2, …, got {list(names)}")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path} must have names: a list, or a mapping from index to name")
    images = _list_images(root, [entry] if isinstance(entry, str) else entry, path)
    return Split(images, [_read_labels(image, len(names)) for image in images], tuple(map(str, names)))


def _list_images(root: Path, entries: Sequence[str], path: Path) -> list[Path]:
    images: list[Path] = []
    for entry in entries:
        source = root / entry
        if source.is_dir():
            images += sorted(file for file in source.rglob("*") if file.suffix.lower() in _EXTENSIONS)
        elif source.is_file():
            lines = source.read_text(encoding="utf-8").split("\n")
            images += [source.parent / line.strip() for line in lines if line.strip()]
        else:
            raise FileNotFoundError(f"{path} names {source}, which does not exist")
    if not images:
        raise FileNotFoundError(f"no images in {', '.join(str(root / entry) for entry in entries)}")
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} images do not exist, the first is {missing[0]}")
    return images


def _label_file(image: Path) -> Path:
    """The last folder called "images" becomes "labels", the ending .txt."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_labels(image: Path, classes: int) -> Boxes:
    file = _label_file(image)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []  # no file: nothing to see
    rows = [_read_line(line, f"{file}:{i}", classes) for i, line in enumerate(lines, 1) if line.strip()]
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    centre, size = table[:, 1:3], table[:, 3:]
    boxes = torch.cat([centre - size / 2, centre + size / 2], 1).clamp(0, 1).float()
    return Boxes(boxes, table[:, 0].long(), torch.zeros(len(rows), dtype=torch.bool))


def _read_line(line: str, where: str, classes: int) -> list[float]:
    try:
        label, *numbers = map(float, line.split())
    except ValueError:
        raise ValueError(f"{where}: expected numbers, got {line!r}") from None
    if len(numbers) > 4 and len(numbers) % 2 == 0:  # a polygon: its box
        x, y = numbers[::2], numbers[1::2]
        numbers = [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]
    if len(numbers) != 4:
        raise ValueError(f"{where}: expected `class x y width height` or a polygon, got {line!r}")
    if not (label.is_integer() and 0 <= label < classes):
        raise ValueError(f"{where}: class {label:g} is not one of 0 to {classes - 1}")
    if not all(-0.01 <= n <= 1.01 for n in numbers) or min(numbers[2:]) < 0:
        raise ValueError(f"{where}: expected shares of the image, between 0 and 1: {line!r}")
    return [label, *numbers]


# ---------------------------------------------------------------------------------------------------------------- COCO


def _read_coco(root: Path, entry: Mapping[str, Any], path: Path) -> Split:
    if set(entry) != {"images", "annotations"}:
        raise ValueError(f"{path}: a COCO split needs images (a folder) and annotations (a JSON file), got {entry}")
    folder, file = root / str(entry["images"]), root / str(entry["annotations"])
    for each in (folder, file):
        if not each.exists():
            raise FileNotFoundError(f"{path} names {each}, which does not exist")
    document = json.loads(file.read_text(encoding="utf-8"))
    absent = {"images", "annotations", "categories"} - set(document)
    if absent:
        raise ValueError(f"{file} is no COCO file of instances: it lacks {', '.join(sorted(absent))}")
    categories = sorted(document["categories"], key=lambda category: category["id"])
    index = {category["id"]: i for i, category in enumerate(categories)}
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        if annotation["category_id"] not in index:
            raise ValueError(
                f"{file}: annotation {annotation['id']} has the unknown category {annotation['category_id']}"
            )
        if annotation["image_id"] not in objects:
            raise ValueError(f"{file}: annotation {annotation['id']} has the unknown image {annotation['image_id']}")
        objects[annotation["image_id"]].append(annotation)
    images = [folder / image["file_name"] for image in document["images"]]
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise FileNotFoundError(f"{file} names {len(missing)} images that do not exist, the first is {missing[0]}")
    targets = [_coco_boxes(image, objects[image["id"]], index) for image in document["images"]]
    return Split(images, targets, tuple(category["name"] for category in categories))


def _coco_boxes(image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], index: Mapping[int, int]) -> Boxes:
    width, height = int(image["width"]), int(image["height"])
    boxes = torch.tensor([each["bbox"] for each in objects], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = (boxes / torch.tensor([width, height, width, height])).clamp(0, 1).float()
    segments = [each.get("segmentation") for each in objects]
    return Boxes(
        boxes,
        torch.tensor([index[each["category_id"]] for each in objects], dtype=torch.int64),
        torch.tensor([bool(each.get("iscrowd", 0)) for each in objects], dtype=torch.bool),
        segments if segments and all(segments) else None,
        (width, height),
    )
