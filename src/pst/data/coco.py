"""Images and COCO JSON; `pst.data.boxes` says how a data file points at them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pst.data.images import Split
from pst.data.objects import Boxes


def read_coco(root: Path, entry: Mapping[str, Any], path: Path) -> Split:
    """The split that ``entry`` of the data file ``path`` points at."""
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
