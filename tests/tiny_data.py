"""Tiny data sets for the trainer's tests: coloured squares on noise, written in a few milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 230)}
CLASSES = tuple(COLORS)


def picture(rng: np.random.Generator, label: int, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, ...]]:
    """Noise of (width, height) pixels with one square; its box as left, top, right, bottom."""
    width, height = size
    pixels = rng.integers(90, 140, (height, width, 3), dtype=np.uint8)
    edge = int(rng.integers(16, 28))
    left, top = int(rng.integers(0, width - edge)), int(rng.integers(0, height - edge))
    pixels[top : top + edge, left : left + edge] = COLORS[CLASSES[label]]
    return Image.fromarray(pixels), (left, top, left + edge, top + edge)


def folder(root: Path, train: int = 12, val: int = 6) -> Path:
    """ImageFolder of three classes."""
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            image, _ = picture(np.random.default_rng([i, split == "val"]), i % 3, (60, 48))
            (root / split / CLASSES[i % 3]).mkdir(parents=True, exist_ok=True)
            image.save(root / split / CLASSES[i % 3] / f"{i:02d}.png")
    return root


def yolo(root: Path, train: int = 8, val: int = 4) -> Path:
    """YOLO layout; every image has one object."""
    for split, count in (("train", train), ("val", val)):
        for sub in ("images", "labels"):
            (root / sub / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image, box = picture(np.random.default_rng([i, split == "val"]), i % 3, (64, 48))
            image.save(root / "images" / split / f"{i:02d}.png")
            (root / "labels" / split / f"{i:02d}.txt").write_text(yolo_line(i % 3, box, (64, 48)))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red, green, blue]\n")
    return root


def squares(root: Path) -> Path:
    """data.yaml of eight 64 px images for each split: bright squares (0) and dark ones (1) on grey noise."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for sub in ("images", "labels"):
            (root / sub / split).mkdir(parents=True)
        for i in range(8):
            image = rng.normal(128, 10, (64, 64, 3))
            label, size = i % 2, 24
            x, y = rng.integers(0, 64 - size, 2)
            image[y : y + size, x : x + size] = 255 if label == 0 else 0
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / split / f"{i}.png")
            box = (label, (x + size / 2) / 64, (y + size / 2) / 64, size / 64, size / 64)
            (root / "labels" / split / f"{i}.txt").write_text(" ".join(map(str, box)) + "\n")
    data = root / "data.yaml"
    data.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: {{0: bright, 1: dark}}\n")
    return data


def yolo_line(label: int, box: tuple[int, ...], size: tuple[int, int]) -> str:
    (left, top, right, bottom), (width, height) = box, size
    numbers = (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height
    return f"{label} " + " ".join(f"{n:.8f}" for n in numbers) + "\n"


def coco(root: Path, train: int = 8, val: int = 4) -> Path:
    """The images of `yolo` as COCO JSON with polygons; category ids are 10, 20, 30."""
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            image, (left, top, right, bottom) = picture(np.random.default_rng([i, split == "val"]), i % 3, (64, 48))
            image.save(root / split / f"{i:02d}.png")
            images.append({"id": 100 + i, "file_name": f"{i:02d}.png", "width": 64, "height": 48})
            polygon = [left, top, right, top, right, bottom, left, bottom]
            box = [left, top, right - left, bottom - top]
            annotations.append(
                {"id": i + 1, "image_id": 100 + i, "category_id": 10 * (i % 3 + 1), "bbox": box, "iscrowd": 0}
                | {"area": box[2] * box[3], "segmentation": [polygon]}
            )
        categories = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(CLASSES)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(document))
    (root / "data.yaml").write_text(
        "train: {images: train, annotations: train.json}\nval: {images: val, annotations: val.json}\n"
    )
    return root


def masks(root: Path, train: int = 8, val: int = 4) -> Path:
    """Images and masks with lists; class 0 is the ground, the upper row of pixels has none."""
    for sub in ("images", "masks"):
        (root / sub).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            image, (left, top, right, bottom) = picture(np.random.default_rng([i, split == "val"]), i % 3, (64, 48))
            image.save(root / "images" / f"{split}{i}.png")
            mask = np.zeros((48, 64), dtype=np.uint8)
            mask[top:bottom, left:right] = 1 + i % 3
            mask[0] = 255
            Image.fromarray(mask).save(root / "masks" / f"{split}{i}.png")
        (root / f"{split}.txt").write_text("".join(f"{split}{i}\n" for i in range(count)))
    (root / "classes.txt").write_text("ground\nred\ngreen\nblue\n")
    return root


def corrupt(file: Path) -> Path:
    """Cut a file in half."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file
