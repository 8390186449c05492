"""Images and text labels as Ultralytics lays them out; `pst.data.detection` says how."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pst.data.images import Boxes, Split
from pst.data.paths import entry_of, is_file, is_there, named, resolved
from pst.data.text import checked_names, read_lines, read_text, shown
from pst.data.walk import list_images, unique
from pst.io.names import counted

_MOST_CLASSES = 100_000


def read_yolo(root: Path, entry: Any, path: Path, spec: Mapping[Any, Any]) -> Split:
    """The split that ``entry`` of the data file ``path``, with the content ``spec``, points at."""
    names = checked_names(_names(spec, path), str(path))
    entries = [entry] if isinstance(entry, str) else entry
    if not isinstance(entries, list) or not entries or not all(isinstance(each, str) and each for each in entries):
        raise ValueError(
            f"{path} has a split {shown(entry)}, expected a folder, a .txt file of paths, or several of these"
        )
    images = _list_images(root, entries, path)
    if not any(os.path.lexists(_label_file(image)) for image in images):
        raise FileNotFoundError(
            f"no image that {path} names in {shown(entry)} has labels: they are looked for as {_label_file(images[0])}"
        )
    keypoints = entry_of(spec, "kpt_shape") is not None
    return Split(images, [_read_labels(image, len(names), keypoints=keypoints) for image in images], names)


def _names(spec: Mapping[Any, Any], path: Path) -> Sequence[Any]:
    names, count = entry_of(spec, "names"), entry_of(spec, "nc")
    if count is not None and not (isinstance(count, str) and count.isdecimal() and 0 < int(count) <= _MOST_CLASSES):
        raise ValueError(f"{path} has nc: {shown(count)}, expected a number of classes from 1 to {_MOST_CLASSES:,}")
    if names is None and count is not None:
        return [f"class_{i}" for i in range(int(count))]
    if isinstance(names, Mapping):
        keys = [key for key in names if isinstance(key, str) and key.isdecimal()]
        by_index = {int(key): names[key] for key in keys}
        if len(keys) < len(names) or sorted(by_index) != list(range(len(names))):
            listed = ", ".join(map(shown, list(names)[:9]))
            raise ValueError(f"{path}: the keys of names must be 0, 1, 2, …, got {listed}")
        names = [by_index[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path} must have names: a list, or a mapping from index to name")
    if count is not None and int(count) != len(names):
        raise ValueError(f"{path} has nc: {count} and {counted(len(names), 'name')}: expected as many")
    return names


def _list_images(root: Path, entries: Sequence[str], path: Path) -> list[Path]:
    images: list[Path] = []
    for entry in entries:
        source = resolved(entry, root)
        if not is_there(source):
            raise FileNotFoundError(f"{path} names {named(source)}, which does not exist")
        if source.is_dir():
            images += list_images(source)
        else:
            images += [resolved(line, source.parent, root, Path()) for line in read_lines(source)]
    if not images:
        raise FileNotFoundError(f"no images in {', '.join(str(resolved(entry, root)) for entry in entries)}")
    missing = [image for image in images if not is_file(image)]
    if missing:
        those = counted(len(missing), "image that does", "images that do")
        raise FileNotFoundError(f"{path} names {those} not exist, the first is {named(missing[0])}")
    return _with_own_labels(unique(images, str(path)))


def _with_own_labels(images: list[Path]) -> list[Path]:
    owners: dict[Path, Path] = {}
    for image in images:
        other = owners.setdefault(_label_file(image), image)
        if other is not image:
            raise ValueError(f"{other} and {image} would share the labels {_label_file(image)}: rename one of them")
    return images


def _label_file(image: Path) -> Path:
    """Where the labels of ``image`` are: the last folder called "images" becomes "labels", the ending .txt."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_labels(image: Path, classes: int, *, keypoints: bool) -> Boxes:
    file = _label_file(image)
    if os.path.lexists(file) and not file.is_file():
        raise FileNotFoundError(f"{file} is a folder, or a link that leads nowhere: expected the labels of {image}")
    lines = read_text(file).split("\n") if file.is_file() else []  # no file: nothing to see
    rows = [_read_line(line, f"{file}:{i}", classes, keypoints) for i, line in enumerate(lines, 1) if line.strip()]
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    centre, size = table[:, 1:3], table[:, 3:]
    boxes = torch.cat([centre - size / 2, centre + size / 2], 1).clamp(0, 1).float()
    return Boxes(boxes, table[:, 0].long(), torch.zeros(len(rows), dtype=torch.bool))


def _read_line(line: str, where: str, classes: int, keypoints: bool) -> list[float]:
    try:
        label, *numbers = (float("" if "_" in word else word) for word in line.split())  # Python reads 0_1 as 1
    except ValueError:
        raise ValueError(f"{where}: expected numbers, got {shown(line)}") from None
    if not all(-0.01 <= n <= 1.01 for n in numbers[: 4 if keypoints else None]):
        raise ValueError(f"{where}: expected shares of the image, between 0 and 1: {shown(line)}")
    if keypoints and len(numbers) > 4:
        numbers = numbers[:4]
    elif len(numbers) > 4 and len(numbers) % 2 == 0:  # a polygon: its box
        x, y = numbers[::2], numbers[1::2]
        numbers = [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]
    if len(numbers) != 4:
        raise ValueError(f"{where}: expected `class x y width height` or a polygon, got {shown(line)}")
    if not (label.is_integer() and 0 <= label < classes):
        raise ValueError(f"{where}: class {label:g} is not one of 0 to {classes - 1}, those of names")
    if min(numbers[2:]) < 0:
        raise ValueError(f"{where}: expected a width and height of 0 or more: {shown(line)}")
    return [label, *numbers]
