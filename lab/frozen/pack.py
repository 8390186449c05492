"""A data set as one small file: pictures resized and squeezed, what is to be found in them beside."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pst.data.detection import read_boxes
from pst.data.images import GREY, Boxes, fitted
from pst.io.files import replacing

SIZE = (240, 320)  # of CamVid's pictures and masks
EDGE = 320  # longest side of pictures with boxes
IGNORE = 255
CLASSES = 11  # of CamVid; what is above is unlabelled
SPLITS = {"camvid": ("train", "val", "test"), "bccd": ("train", "val"), "voc": ("train", "val")}


class Pictures(NamedTuple):
    """One split.

    Attributes:
        images: (N, 3, H, W) uint8, RGB.
        targets: (N, H, W) uint8 masks, or a list of N `Boxes` in shares of the picture, not of the square it stands in.
        sizes: (width, height) of each picture, without what fills it up.
        classes: Names.
    """

    images: Tensor
    targets: Any
    sizes: list[tuple[int, int]]
    classes: tuple[str, ...]


def read(name: str, path: Path, splits: Sequence[str] | None = None, limit: int | None = None) -> dict[str, Pictures]:
    """Read splits of a data set from its folder, or from a file that `pack` made.

    Args:
        name: A key of `SPLITS`.
        path: Folder or file.
        splits: Which of them; None is all.
        limit: Only so many pictures of each.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: The file is none that `pack` made of this data set.
    """
    wanted = SPLITS[name] if splits is None else splits
    if path.is_dir():
        found = {split: _rows(name, path, split, limit) for split in wanted}
    else:
        found = _unpack(name, path, wanted, limit)
    return {split: _pictures(name, rows, classes) for split, (rows, classes) in found.items()}


def describe(path: Path) -> str:
    """Which of the two was read, for a result file."""
    if path.is_dir():
        return "folder, resized"
    return about(path)["made"]


def about(path: Path, name: str | None = None) -> dict[str, Any]:
    """What a file of `pack` says of itself.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no such file, or one of another data set than ``name``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: make it with `python -m lab frozen pack`, or give a folder")
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read("about.json"))
        held = found["name"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of `python -m lab frozen pack`: remove it, and pack again") from error
    if name not in (None, held):
        raise ValueError(f"{path} holds {held}, wanted is {name}: remove it, or give another file")
    return found


def pack(name: str, path: Path, out: Path, kind: str = "jpeg", quality: int = 95) -> None:
    """Write a data set's folder as one file: pictures of the size that is trained with, masks as PNG.

    Args:
        name: A key of `SPLITS`.
        path: Folder.
        out: The file.
        kind: Of the pictures, "jpeg" or "webp".
        quality: Of them.
    """
    made = f"resized, then packed as {kind} of quality {quality}"
    options = {"quality": quality, **({"optimize": True} if kind == "jpeg" else {"method": 6})}
    with replacing(out) as part, zipfile.ZipFile(part, "w") as archive:
        content: dict[str, Any] = {"name": name, "made": made, "splits": {}}
        for split in SPLITS[name]:
            rows, classes = _rows(name, path, split, None)
            content["classes"], content["splits"][split] = list(classes), []
            for i, (image, target) in enumerate(rows):
                archive.writestr(f"{split}/{i}.picture", _encoded(image, kind, **options))
                if name == "camvid":
                    archive.writestr(f"{split}/{i}.png", _encoded(target, "PNG", optimize=True))
                content["splits"][split].append(None if name == "camvid" else _plain(target))
        archive.writestr("about.json", json.dumps(content), zipfile.ZIP_DEFLATED)


Row = tuple[Image.Image, Any]


def _rows(name: str, path: Path, split: str, limit: int | None) -> tuple[list[Row], tuple[str, ...]]:
    if name == "camvid":
        listed = path / f"{split}.txt"
        if not listed.is_file():
            raise FileNotFoundError(
                f"no file {listed}: give the folder of CamVid, with its train.txt, val.txt and test.txt"
            )
        names = listed.read_text(encoding="utf-8").split()[:limit]
        classes = tuple((path / "classes.txt").read_text(encoding="utf-8").split())[:CLASSES]
        return [(_frame(path, each), _mask(path, each)) for each in names], classes
    found = read_boxes(path, split)
    pairs = list(zip(found.images, found.targets, strict=True))[:limit]
    return [(_photo(image), boxes) for image, boxes in pairs], found.classes


def _frame(root: Path, name: str) -> Image.Image:
    with Image.open(root / "images" / f"{name}.jpg") as file:
        return file.convert("RGB").resize((SIZE[1], SIZE[0]), Image.Resampling.BOX)


def _mask(root: Path, name: str) -> Image.Image:
    with Image.open(root / "masks" / f"{name}.png") as file:
        return file.resize((SIZE[1], SIZE[0]), Image.Resampling.NEAREST)


def _photo(path: Path) -> Image.Image:
    with Image.open(path) as file:
        height, width = fitted(file.height, file.width, EDGE)
        rgb = file.convert("RGB")
        return rgb if rgb.size == (width, height) else rgb.resize((width, height), Image.Resampling.BOX)


def _pictures(name: str, rows: Sequence[Row], classes: tuple[str, ...]) -> Pictures:
    sizes = [image.size for image, _ in rows]
    if name == "camvid":
        images = torch.stack([_tensor(image) for image, _ in rows])
        masks = torch.stack([torch.from_numpy(np.array(mask)) for _, mask in rows])
        return Pictures(images, masks.masked_fill(masks >= CLASSES, IGNORE), sizes, classes)
    images = torch.full((len(rows), 3, EDGE, EDGE), GREY, dtype=torch.uint8)
    for square, (image, _) in zip(images, rows, strict=True):
        square[:, : image.height, : image.width] = _tensor(image)
    return Pictures(images, [boxes for _, boxes in rows], sizes, classes)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _unpack(
    name: str, path: Path, splits: Sequence[str], limit: int | None
) -> dict[str, tuple[list[Row], tuple[str, ...]]]:
    content = about(path, name)
    with zipfile.ZipFile(path) as archive:
        found = {}
        for split in splits:
            rows: list[Row] = []
            for i, target in enumerate(content["splits"][split][:limit]):
                mask = _decoded(archive, f"{split}/{i}.png") if name == "camvid" else _boxes(target)
                rows.append((_decoded(archive, f"{split}/{i}.picture"), mask))
            found[split] = (rows, tuple(content["classes"]))
    return found


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _decoded(archive: zipfile.ZipFile, name: str) -> Image.Image:
    image = Image.open(io.BytesIO(archive.read(name)))
    image.load()
    return image


def _plain(boxes: Boxes) -> dict[str, Any]:
    return {"boxes": boxes.boxes.tolist(), "labels": boxes.labels.tolist(), "crowd": boxes.crowd.tolist()}


def _boxes(plain: Mapping[str, Any]) -> Boxes:
    return Boxes(
        torch.tensor(plain["boxes"], dtype=torch.float32).reshape(-1, 4),
        torch.tensor(plain["labels"], dtype=torch.int64),
        torch.tensor(plain["crowd"], dtype=torch.bool),
    )
