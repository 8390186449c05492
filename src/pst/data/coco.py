"""Images and COCO JSON; `pst.data.detection` says how a data file points at them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from pst.data import coco_values as values
from pst.data.images import Boxes, Split
from pst.data.paths import is_file, is_there, named, resolved
from pst.data.text import checked_names, read_text, shown
from pst.io.image_file import read_size
from pst.io.names import counted

_LOG = logging.getLogger(__name__)
_LISTS = ("images", "annotations", "categories")


class _Image(NamedTuple):
    """An image's file, its size, and the (annotation, box, class index) of what it shows."""

    file: Path
    size: tuple[int, int]
    objects: list[tuple[Mapping[str, Any], list[float], int]]


def read_coco(
    root: Path, entry: Mapping[str, Any], path: Path, classes: tuple[str, ...] | None = None, *, segments: bool = False
) -> Split:
    """The split that ``entry`` of the data file ``path`` points at; arguments and errors as in `read_boxes`.

    An annotation without a box gets that of its segmentation; without either it is left out, and counted in the log.
    """
    folder, file = _places(root, entry, path)
    document = _read(file)
    names, index = _categories(document, classes, file)
    images = _images(document["images"], folder, file)
    left_out = []
    for i, annotation in enumerate(document["annotations"]):
        where = values.where(file, "annotation", annotation, i)
        category = _found(annotation, "category_id", index, where)
        image = _found(annotation, "image_id", images, where)
        box = values.box(annotation, image.size, where)
        if box is None:
            left_out.append(where)
        else:
            image.objects.append((annotation, box, category))
    if left_out:
        those = counted(len(left_out), "annotation")
        _LOG.warning("left out %s without a box, the first is %s", those, left_out[0])
    targets = [_boxes(image, file, segments=segments) for image in images.values()]
    return Split([image.file for image in images.values()], targets, names)


def _places(root: Path, entry: Mapping[str, Any], path: Path) -> tuple[Path, Path]:
    if set(entry) != {"images", "annotations"} or not all(isinstance(each, str) for each in entry.values()):
        raise ValueError(
            f"{path}: a COCO split needs images (a folder) and annotations (a JSON file), got "
            f"{', '.join(f'{shown(k)}: {shown(v)}' for k, v in list(entry.items())[:9])}"
        )
    folder, file = resolved(entry["images"], root), resolved(entry["annotations"], root)
    for each in (folder, file):
        if not is_there(each):
            raise FileNotFoundError(f"{path} names {named(each)}, which does not exist")
    return folder, file


def _read(file: Path) -> dict[str, list[Any]]:
    try:
        document = json.loads(read_text(file), parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError(f"{file} is not a COCO file: it is nested too deep") from error
    except ValueError as error:
        raise ValueError(str(error) if str(file) in str(error) else f"{file} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{file} is not a COCO file of instances: it holds {shown(document)}")  # noqa: TRY004
    wrong = [name for name in _LISTS if not isinstance(document.get(name), list)]
    if wrong:
        raise ValueError(f"{file} is not a COCO file of instances: it lacks a list of {', '.join(wrong)}")
    for name in _LISTS:
        for i, each in enumerate(document[name]):
            if not isinstance(each, dict):
                raise ValueError(f"{file}: {name} number {i + 1} is {shown(each)}, expected an object")  # noqa: TRY004
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is not a number")


def _categories(
    document: Mapping[str, list[Any]], classes: tuple[str, ...] | None, file: Path
) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """Names of the classes, and the index of each category's id."""
    known: dict[int | str, Mapping[str, Any]] = {}
    for i, category in enumerate(document["categories"]):
        where = values.where(file, "category", category, i)
        key = values.identity(category.get("id"), where)
        if key in known:
            raise ValueError(f"{where} has the id of another category")
        known[key] = category
    roots = {key for key, category in known.items() if _is_root(category, known.values())}
    if roots:  # one that has objects of its own is a class
        for i, annotation in enumerate(document["annotations"]):
            roots.discard(_key(annotation, "category_id", values.where(file, "annotation", annotation, i)))
    kept = {key: category for key, category in known.items() if key not in roots}
    keys = sorted(kept, key=lambda key: (isinstance(key, str), key))
    names = checked_names([kept[key].get("name") for key in keys], str(file))
    if classes is None:
        return names, {key: i for i, key in enumerate(keys)}
    return classes, {key: classes.index(name) for key, name in zip(keys, names, strict=True) if name in classes}


def _is_root(category: Mapping[str, Any], categories: Any) -> bool:
    """Whether a category only groups the others, as the first one that Roboflow writes."""
    own = category.get("supercategory") in (None, "", "none")
    return own and any(other.get("supercategory") == category.get("name") for other in categories if other != category)


def _images(entries: list[Any], folder: Path, file: Path) -> dict[int | str, _Image]:
    images: dict[int | str, _Image] = {}
    owners: dict[str, str] = {}
    missing: list[Path] = []
    inside = os.path.abspath(folder) + os.sep  # noqa: PTH100 links are the user's own
    for i, entry in enumerate(entries):
        where = values.where(file, "image", entry, i)
        key, name = values.identity(entry.get("id"), where), entry.get("file_name")
        if key in images:
            raise ValueError(f"{where} has the id of another image")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where} has the file_name {shown(name)}, expected a path in {folder}")
        place = resolved(name, folder)
        full = os.path.abspath(place)  # noqa: PTH100
        if not full.startswith(inside):
            raise ValueError(f"{where} has the file_name {shown(name)}, which is outside of {folder}")
        other = owners.setdefault(full, where)
        if other != where:
            raise ValueError(f"{where} has the same file as {other.removeprefix(f'{file}: ')}: {place}")
        if is_file(place):
            images[key] = _Image(place, values.size(entry, where) or read_size(place), [])
        else:
            missing.append(place)
    if missing:
        those = counted(len(missing), "image that does", "images that do")
        raise FileNotFoundError(f"{file} names {those} not exist, the first is {named(missing[0])}")
    if not images:
        raise FileNotFoundError(f"{file} names no images")
    return images


def _key(annotation: Mapping[str, Any], name: str, where: str) -> int | str:
    return values.identity(annotation.get(name), f"{where}, {name}")


def _found(annotation: Mapping[str, Any], name: str, known: Mapping[int | str, Any], where: str) -> Any:
    key = _key(annotation, name, where)
    if key not in known:
        raise ValueError(f"{where} has the unknown {name.removesuffix('_id')} {shown(key)}")
    return known[key]


def _boxes(image: _Image, file: Path, *, segments: bool) -> Boxes:
    corners = torch.tensor([box for _, box, _ in image.objects], dtype=torch.float64).reshape(-1, 4)
    shares = (corners / torch.tensor(image.size * 2)).clamp(0, 1).float()
    crowd = [values.is_crowd(annotation, file) for annotation, _, _ in image.objects]
    drawn = [values.segment(annotation, image.size, file) for annotation, _, _ in image.objects] if segments else None
    labels = torch.tensor([label for *_, label in image.objects], dtype=torch.int64)
    return Boxes(shares, labels, torch.tensor(crowd, dtype=torch.bool), drawn, image.size)
