"""Readers of data sets: what they find, and that every flaw is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_data
from pst.data.dataset import Images
from pst.data.detection import read_boxes
from pst.data.folder import read_folder
from pst.data.images import Sample, centre_square, decode, letterbox
from pst.data.masks import read_mask, read_masks
from pst.io.image_file import CorruptImageError


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# -------------------------------------------------------------------------------------------------------------- folder


def test_folders_are_classes(tmp_path):
    root = tiny_data.folder(tmp_path)
    split = read_folder(root, "train")
    assert split.classes == ("blue", "green", "red")
    assert [split.classes[i] for i in split.targets] == [file.parent.name for file in split.images]
    assert len(split.images) == 12


def test_a_validation_split_may_lack_a_class_but_not_add_one(tmp_path):
    root = tiny_data.folder(tmp_path)
    classes = read_folder(root, "train").classes
    for file in (root / "val" / "green").iterdir():
        file.unlink()
    (root / "val" / "green").rmdir()
    assert set(read_folder(root, "val", classes).targets) == {0, 2}
    (root / "val" / "pink").mkdir()
    with pytest.raises(ValueError, match="not a class of the training images: pink"):
        read_folder(root, "val", classes)


def test_an_empty_class_and_a_missing_split_are_refused(tmp_path):
    root = tiny_data.folder(tmp_path)
    (root / "train" / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        read_folder(root, "train")
    with pytest.raises(FileNotFoundError, match="test"):
        read_folder(root, "test")


# --------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize("split", ["train", "val"])
def test_yolo_and_coco_say_the_same(tmp_path, split):
    one = read_boxes(tiny_data.yolo(tmp_path / "yolo"), split)
    other = read_boxes(tiny_data.coco(tmp_path / "coco") / "data.yaml", split)
    assert one.classes == other.classes == tiny_data.CLASSES
    assert [file.name for file in one.images] == [file.name for file in other.images]
    for a, b in zip(one.targets, other.targets, strict=True):
        torch.testing.assert_close(a.boxes, b.boxes, atol=1e-6, rtol=0)
        assert torch.equal(a.labels, b.labels)
        assert b.size == (64, 48)


def test_a_box_is_where_the_square_is(tmp_path):
    split = read_boxes(tiny_data.yolo(tmp_path), "train")
    for file, target in zip(split.images, split.targets, strict=True):
        left, top, right, bottom = (target.boxes[0] * torch.tensor([64, 48, 64, 48])).round().int().tolist()
        pixels = decode(file)
        color = torch.tensor(tiny_data.COLORS[split.classes[int(target.labels)]], dtype=torch.uint8)
        inside = (pixels == color[:, None, None]).all(0)
        assert inside[top:bottom, left:right].all()
        assert inside.sum() == (right - left) * (bottom - top)


def test_a_file_of_paths_polygons_and_images_without_labels(tmp_path):
    root = tiny_data.yolo(tmp_path)
    (root / "train.txt").write_text("images/train/00.png\nimages/train/01.png\nimages/train/02.png\n")
    replace(root / "data.yaml", "train: images/train", "train: train.txt")
    (root / "labels/train/00.txt").write_text("0 0.25 0.5 0.75 0.5 0.5 1.0\n")
    (root / "labels/train/01.txt").unlink()
    (root / "labels/train/02.txt").write_text("1 0.5 0.5 0.2 0.2\n2 0.5 0.5 0.1 0.1\n")
    split = read_boxes(root, "train")
    assert len(split.images) == 3
    torch.testing.assert_close(split.targets[0].boxes, torch.tensor([[0.25, 0.5, 0.75, 1.0]]))
    assert split.targets[1].boxes.shape == (0, 4)


def test_boxes_without_an_area_are_left_out_and_counted(tmp_path, caplog):
    root = tiny_data.yolo(tmp_path)
    with (root / "labels/train/03.txt").open("a") as file:
        file.write("1 0.5 0.5 0 0\n")
    split = read_boxes(root, "train")
    assert len(split.targets[3].boxes) == 1
    assert f"left out 1 box without an area, the first of {split.images[3]}" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7 0.5 0.5 0.1 0.1", r"00.txt:1: class 7 is not one of 0 to 2"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is not one of"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is not one of"),
        ("0 0.5 0.5", "expected `class x y width height`"),
        ("0 320 200 50 60", "expected shares of the image"),
        ("red 0.5 0.5 0.1 0.1", "expected numbers"),
    ],
)
def test_a_wrong_label_is_named_with_file_and_line(tmp_path, line, message):
    root = tiny_data.yolo(tmp_path)
    (root / "labels/train/00.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_boxes(root, "train")


def test_a_class_that_no_training_image_shows_is_refused(tmp_path):
    root = tiny_data.yolo(tmp_path)
    replace(root / "data.yaml", "blue]", "blue, pink, grey]")
    with pytest.raises(ValueError, match=r"no training image of .* shows: pink, grey"):
        read_boxes(root, "train")
    assert read_boxes(root, "val").classes[-1] == "grey"


def test_missing_labels_are_named_as_the_cause(tmp_path):
    root = tiny_data.yolo(tmp_path)
    shutil.rmtree(root / "labels")
    where = re.escape(str(root / "labels/train/00.txt"))
    with pytest.raises(FileNotFoundError, match=f"has labels: they are looked for as {where}"):
        read_boxes(root, "train")
    with pytest.raises(FileNotFoundError, match="has labels"):
        read_boxes(root, "val")


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("images/train", "images/none", FileNotFoundError, "which does not exist"),
        ("train:", "training:", ValueError, "has no split 'train'"),
        ("names: [red, green, blue]", "names: {1: red}", ValueError, "must be 0, 1, 2"),
        ("names: [red, green, blue]", "", ValueError, "must have names"),
    ],
)
def test_a_wrong_data_file_is_refused(tmp_path, old, new, error, message):
    root = tiny_data.yolo(tmp_path)
    replace(root / "data.yaml", old, new)
    with pytest.raises(error, match=message):
        read_boxes(root, "train")


READERS = {"detect": read_boxes, "segment": read_masks, "classify": read_folder}
MADE = {"detect": tiny_data.yolo, "segment": tiny_data.masks, "classify": tiny_data.folder}


@pytest.mark.parametrize(("task", "of"), [(a, b) for a in READERS for b in MADE if a != b])
def test_a_folder_of_another_task_is_named(tmp_path, task, of):
    with pytest.raises(FileNotFoundError, match=f"^(no|.* has no) .*; it has .* as data sets for {of} have$"):
        READERS[task](MADE[of](tmp_path / "data"), "train")


@pytest.mark.parametrize("task", READERS)
def test_a_folder_of_no_task_is_told_what_is_missing_alone(tmp_path, task):
    (tmp_path / "train" / "images").mkdir(parents=True)  # as Roboflow writes it, without its data.yaml
    with pytest.raises(FileNotFoundError, match=r"(^| has )no ") as caught:
        READERS[task](tmp_path, "train" if task != "classify" else "val")
    assert "; it has" not in str(caught.value)


def test_a_folder_of_classes_without_a_split_is_not_said_to_be_of_another_task(tmp_path):
    shutil.rmtree(tiny_data.folder(tmp_path) / "val")
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(tmp_path))}/val/CLASS/IMAGE$"):
        read_folder(tmp_path, "val")


def test_coco_crowds_and_unknown_ids(tmp_path):
    root = tiny_data.coco(tmp_path)
    document = json.loads((root / "train.json").read_text())
    document["annotations"][0]["iscrowd"] = 1
    (root / "train.json").write_text(json.dumps(document))
    assert read_boxes(root, "train").targets[0].crowd.tolist() == [True]
    document["annotations"][3]["category_id"] = 77
    (root / "train.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="annotation 4 has the unknown category 77"):
        read_boxes(root, "train")
    (root / "val" / "02.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 image that does not exist, the first is .*02\.png"):
        read_boxes(root, "val")


# --------------------------------------------------------------------------------------------------------------- masks


def test_lists_and_folders_of_masks_are_the_same(tmp_path):
    root = tiny_data.masks(tmp_path / "lists")
    listed = read_masks(root, "val")
    assert listed.classes == ("ground", "red", "green", "blue")
    assert [file.name for file in listed.images] == [file.name for file in listed.targets]
    nested = tmp_path / "folders"
    for kind in ("images", "masks"):
        (nested / kind / "val").mkdir(parents=True)
        for file in (root / kind).glob("val*"):
            (nested / kind / "val" / file.name).write_bytes(file.read_bytes())
    (nested / "classes.txt").write_text((root / "classes.txt").read_text())
    assert [file.name for file in read_masks(nested, "val").images] == [file.name for file in listed.images]


def test_missing_masks_lists_and_classes_are_refused(tmp_path):
    root = tiny_data.masks(tmp_path)
    (root / "masks" / "train3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 name of train has no mask in .*: train3"):
        read_masks(root, "train")
    with pytest.raises(FileNotFoundError, match="nothing says what test is"):
        read_masks(root, "test")
    (root / "val.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match="val is empty"):
        read_masks(root, "val")
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt"):
        read_masks(root, "train")


def test_a_value_that_is_no_class_is_refused(tmp_path):
    file = read_masks(tiny_data.masks(tmp_path), "train").targets[0]
    assert set(read_mask(file, 4).unique().tolist()) == {0, 1, 255}
    with pytest.raises(ValueError, match=r"holds the values \[1\]: expected 0 to 0, or 255"):
        read_mask(file, 1)


def test_a_palette_image_gives_indices_not_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 255]], dtype=np.uint8)).convert("P")
    image.putpalette([200, 10, 10] * 256)
    image.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", 3).tolist() == [[0, 1], [2, 255]]


# -------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 7), (1, 90)])
def test_squares(size):
    image = torch.randint(0, 255, (3, *size), dtype=torch.uint8)
    boxed, centred = letterbox(image, 32), centre_square(image, 32)
    assert boxed.shape == centred.shape == (3, 32, 32)
    assert boxed.dtype == centred.dtype == torch.uint8
    height, width = (max(1, round(edge * 32 / max(size))) for edge in size)
    assert (boxed[:, height:] == 114).all()
    assert (boxed[:, :, width:] == 114).all()


def images(files: list[Path], **options) -> Images:
    return Images(files, lambda i: Sample(letterbox(decode(files[i]), 8), i, (9, 9)), **options)


@pytest.mark.parametrize("cache", [False, True])
def test_corrupt_images_are_named_and_counted_and_skipped_only_on_request(tmp_path, cache, caplog):
    files = read_folder(tiny_data.folder(tmp_path), "train").images
    bad = [tiny_data.corrupt(files[i]) for i in (1, 4)]
    with pytest.raises(ValueError, match="2 of 12 images cannot be decoded") as error:
        images(files, cache=cache)
    assert all(str(file) in str(error.value) for file in bad)
    assert "--skip-corrupt" in str(error.value)
    data = images(files, cache=cache, skip_corrupt=True)
    assert f"left out 2 of 12 images, the first: {bad[0]} cannot be decoded" in caplog.text
    assert len(data) == len(data.files) == 10
    assert data[1].targets.tolist() == [2]  # positions close up, targets stay with their images
    assert len(data.corrupt) == 2
    with pytest.raises(CorruptImageError, match=str(bad[0])):
        images(files, check=False)[1]


def test_a_cached_batch_is_the_batch_that_is_read(tmp_path):
    files = read_folder(tiny_data.folder(tmp_path), "train").images
    one, other = (images(files, cache=cache).__getitems__([7, 0, 3]) for cache in (True, False))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)
    assert one.indices.tolist() == [7, 0, 3]


def test_nothing_left_is_an_error(tmp_path):
    files = read_folder(tiny_data.folder(tmp_path), "train").images[:2]
    for file in files:
        tiny_data.corrupt(file)
    with pytest.raises(ValueError, match="no image can be decoded"):
        images(files, skip_corrupt=True)
