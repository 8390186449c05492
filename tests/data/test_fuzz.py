"""Every reader, on files that are damaged a little: a valid result, or one sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fuzz
import tiny_data
from pst.data.detection import read_boxes
from pst.data.images import centre_square, decode, letterbox
from pst.data.masks import read_mask, read_masks
from pst.data.yaml_file import read_mapping
from pst.io.image_file import MOST_PIXELS, CorruptImageError, read_size
from pst.train.tasks.detection_metrics import draw_segments

ANY = (ValueError, FileNotFoundError, CorruptImageError)
PIXELS = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)


def make_yolo(root: Path) -> list[Path]:
    tiny_data.yolo(root, train=3, val=3)
    (root / "val.txt").write_text("".join(f"images/val/{i:02d}.png\n" for i in range(3)))
    (root / "labels/val/01.txt").write_text("1 0.25 0.5 0.75 0.5 0.5 1.0\n0 0.5 0.5 0.1 0.1\n")
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: val.txt\ntest:\n\nnc: 3\nnames:\n  0: red\n  1: green\n  2: 'blue'\n"
    )
    return [root / "data.yaml", root / "val.txt", *sorted((root / "labels" / "val").iterdir())]


def make_coco(root: Path) -> list[Path]:
    tiny_data.coco(root, train=3, val=1)
    runs = {"size": [48, 64], "counts": [100, 48 * 64 - 100]}
    text = (root / "train.json").read_text()
    polygon = text[text.index('"segmentation": ') : text.index("]]") + 2]
    (root / "train.json").write_text(text.replace(polygon, f'"segmentation": {str(runs).replace(chr(39), chr(34))}', 1))
    return [root / "train.json", root / "train.json", root / "data.yaml"]


def make_masks(root: Path) -> list[Path]:
    tiny_data.masks(root, train=2, val=2)
    Image.fromarray(np.array(Image.open(root / "masks/val1.png"))).convert("P").save(root / "masks" / "val1.png")
    return [root / "classes.txt", root / "val.txt", *sorted((root / "masks").glob("val*"))]


def read_any_boxes(root: Path) -> None:
    for split in ("train", "val"):
        segments = (root / "train.json").exists() and split == "train"
        found = read_boxes(root, split, segments=segments)
        assert found.images
        assert all(name.strip() and name.isprintable() for name in found.classes)
        for file, target in zip(found.images, found.targets, strict=True):
            assert file.is_file()
            assert target.boxes.dtype == torch.float32
            assert target.boxes.shape == (len(target.labels), 4)
            assert ((target.boxes >= 0) & (target.boxes <= 1)).all()
            assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
            assert ((target.labels >= 0) & (target.labels < len(found.classes))).all()
            assert target.crowd.dtype == torch.bool
            if segments and max(target.size) < 5000:
                drawn = draw_segments(target.segments, target.size, 32)
                assert drawn.shape == (len(target.labels), 32, 32)
                assert set(drawn.unique().tolist()) <= {0, 1}


def read_all_masks(root: Path) -> None:
    found = read_masks(root, "val")
    assert len(found.images) == len(found.targets) > 0
    for file in found.targets:
        mask = read_mask(file, len(found.classes))
        assert mask.dtype == torch.uint8
        assert mask.ndim == 2
        assert set(mask.unique().tolist()) <= {*range(len(found.classes)), 255}


def read_yaml(root: Path) -> None:
    for text in (False, True):
        assert isinstance(read_mapping(root / "a.yaml", text=text), dict)


def make_yaml(root: Path) -> list[Path]:
    root.mkdir(exist_ok=True)
    text = "base: &b {lr: 1e-3, on: yes}\nrun:\n  <<: *b\n  list: [1, 'two', 2020-01-01, ~]\nnames:\n- a\n- b\n"
    (root / "a.yaml").write_text(text)
    return [root / "a.yaml"]


def picture(name: str, mode: str, **options) -> fuzz.Target:
    def make(root: Path) -> list[Path]:
        root.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        image = Image.fromarray(PIXELS)
        image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        image.save(root / name, **({"exif": exif} if name[-3:] in ("jpg", "png", "tif", "ebp") else {}), **options)
        return [root / name]

    def read(root: Path) -> None:
        image = decode(root / name)
        assert image.dtype == torch.uint8
        assert image.ndim == 3
        assert len(image) == 3
        assert 0 < image[0].numel() <= MOST_PIXELS
        assert min(read_size(root / name)) > 0
        if image[0].numel() < 1e6:
            assert letterbox(image, 16).shape == centre_square(image, 16).shape == (3, 16, 16)

    return fuzz.Target(make, read, ANY)


TARGETS = {
    "yaml": fuzz.Target(make_yaml, read_yaml, ANY),
    "yolo": fuzz.Target(make_yolo, read_any_boxes, ANY),
    "coco": fuzz.Target(make_coco, read_any_boxes, ANY),
    "masks": fuzz.Target(make_masks, read_all_masks, ANY),
    "png": picture("a.png", "RGB"),
    "png of 16 bits": picture("a.png", "I;16"),
    "png with palette": picture("a.png", "P"),
    "jpeg": picture("a.jpg", "RGB"),
    "tiff": picture("a.tif", "RGB"),
    "packed tiff": picture("a.tif", "L", compression="tiff_lzw"),
    "bmp": picture("a.bmp", "RGB"),
    "webp": picture("a.webp", "RGBA"),
    "pgm": picture("a.pgm", "L"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of its own, about what it skips in a damaged file
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("tries", [40, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused_in_one_sentence(tmp_path, name, tries):
    refused = fuzz.run(TARGETS[name], tmp_path / "set", tries=tries, name=name)
    assert refused > 0  # the damage is real
