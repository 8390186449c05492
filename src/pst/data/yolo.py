"""Images and text labels as Ultralytics lays them out; `pst.data.boxes` says how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pst.data.images import Split
from pst.data.objects import Boxes

_EXTENSIONS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def read_yolo(root: Path, entry: Any, path: Path, spec: Mapping[str, Any]) -> Split:
    """The split that ``entry`` of the data file ``path``, with the content ``spec``, points at."""
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
