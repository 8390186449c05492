"""data.yaml and labels as Roboflow, CVAT, Darknet and Ultralytics write them."""

from __future__ import annotations

import pytest
import torch

import tiny_data
from pst.data.detection import read_boxes


@pytest.fixture
def root(tmp_path):
    return tiny_data.yolo(tmp_path / "set")


def write(root, head, names="names: [red, green, blue]\n"):
    (root / "data.yaml").write_text(head + names)
    return root


def found(root, split="train"):
    split = read_boxes(root, split)
    return [str(file.resolve().relative_to(root.resolve())) for file in split.images]


TRAIN = [f"images/train/{i:02d}.png" for i in range(8)]


@pytest.mark.parametrize(
    "head",
    [
        "train: ../images/train\nval: ../images/val\ntest: ../test/images\n",
        "path:\ntrain: images/train\nval: images/val\ntest:\n",
        "path: ''\ntrain: ./images/train\nval: images/val\ntest: ~\n",
        "path: null\ntrain: images\\train\nval: images/val\ntest: null\n",
        "path: ../set\ntrain: [images/train]\nval: images/val\n",
        "train: images/train\nval: images/train\nroboflow: {version: 1}\ndownload: |\n  import os\n",
    ],
)
def test_paths_as_tools_write_them(root, head):
    write(root, head)
    assert found(root) == TRAIN
    assert len(found(root, "val")) in (4, 8)
    with pytest.raises((ValueError, FileNotFoundError), match=r"no split 'test'|test/images, which does not exist"):
        read_boxes(root, "test")


def test_a_path_in_the_working_directory(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    (root / "sub").mkdir()
    (root / "data.yaml").rename(root / "sub" / "data.yaml")
    (root / "sub" / "data.yaml").write_text(
        "path: set\ntrain: images/train\nval: images/val\nnames: [red, green, blue]"
    )
    assert len(read_boxes(root / "sub" / "data.yaml", "train").images) == 8


@pytest.mark.parametrize(
    "line", ["images/train/{}", "./images/train/{}", "images\\train\\{}", "{root}/images/train/{}"]
)
@pytest.mark.parametrize("place", ["train.txt", "lists/train.txt"])
def test_lists_of_images(root, line, place, caplog):
    (root / "lists").mkdir()
    lines = [line.format(file.rsplit("/")[-1], root=root) for file in TRAIN]
    (root / place).write_bytes("\r\n".join([*lines, lines[0], ""]).encode())
    assert found(write(root, f"train: {place}\nval: images/val\n")) == TRAIN
    assert "names 1 image again" in caplog.text


def test_several_folders_and_lists_count_each_image_once(root):
    (root / "some.txt").write_text("images/val/00.png\nimages/train/00.png\n")
    assert found(write(root, "train: [images/train, some.txt, images/val]\n"))[:10] == [
        *TRAIN,
        "images/val/00.png",
        "images/val/01.png",
    ]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("names: {0: a, 2: c, 1: b}\n", ("a", "b", "c")),
        ("names:\n- yes\n- 1\n- 2020-01-01\nnc: 3\n", ("yes", "1", "2020-01-01")),
        ("nc: 3\n", ("class_0", "class_1", "class_2")),
        ("nc: 3\nnames: [no, 'null', 1.50]\n", ("no", "null", "1.50")),
    ],
)
def test_names_as_they_are_written(root, names, wanted):
    assert read_boxes(write(root, "train: images/train\n", names), "train").classes == wanted


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("names: [red, green, red]\n", "the classes 'red' and 'red'"),
        ("names: [red, Red, blue]\n", "the classes 'red' and 'Red'"),
        ("names: [red, 'r ed', blue]\n", "the classes 'red' and 'r ed'"),
        ("names: [red, , blue]\n", "is not YAML"),
        ("names: [red, '', blue]\n", "the class name ''"),
        ("names: [red, [a], blue]\n", "the class name a list of 1"),
        ('names: [red, "\\e[31m", blue]\n', "the class name '.x1b"),
        ("names: red\n", "must have names"),
        ("names: {0: red, one: green}\n", "must be 0, 1, 2, …, got '0', 'one'"),
        ("names: [red, green]\nnc: 3\n", "nc: 3 and 2 names"),
        ("nc: 1000000000\n", "from 1 to 100,000"),
        ("nc: many\n", "nc: 'many'"),
        ("names: [red, green]\n", r"class 2 is not one of 0 to 1"),
    ],
)
def test_names_that_are_no_names_are_refused(root, names, message):
    with pytest.raises(ValueError, match=message):
        read_boxes(write(root, "train: images/train\n", names), "train")


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        ("train:\nval: images/val\n", ValueError, "no split 'train'"),
        ("train: 5\n", FileNotFoundError, "set/5, which does not exist"),
        ("train: true\n", FileNotFoundError, "set/true, which does not exist"),
        ("train: [1]\n", FileNotFoundError, "set/1, which does not exist"),
        ("train: []\n", ValueError, "expected a folder"),
        ("train: [[a]]\n", ValueError, "expected a folder"),
        ("train: {images: a}\n", ValueError, "a COCO split needs images"),
        ("path: [a]\ntrain: a\n", ValueError, "the path a list of 1"),
        ("path: gone\ntrain: a\n", FileNotFoundError, "the path gone, which does not exist: correct it"),
        ("train: data.yaml\n", FileNotFoundError, "names 2 images that do not exist"),
        ("train: images/train/00.png\n", ValueError, "00.png is UTF-16 or no text"),
        ("train: " + "x" * 5000 + "\n", FileNotFoundError, "does not exist"),
    ],
)
def test_a_split_that_leads_nowhere_is_refused(root, head, error, message):
    with pytest.raises(error, match=message):
        read_boxes(write(root, head), "train")


def test_equal_rows_count_once(root, caplog):
    (root / "labels/train/00.txt").write_text(
        "0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n1 .5 .5 .2 .2\n0 0.50 0.5 .2 .2\n0 .5 .5 .2 .3\n"
    )
    target = read_boxes(root, "train").targets[0]
    assert target.labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(target.boxes[0], torch.tensor([0.4, 0.4, 0.6, 0.6]))
    assert "left out 2 objects that are listed twice" in caplog.text


def test_rows_with_keypoints_are_boxes(root):
    write(root, "train: images/train\nkpt_shape: [2, 3]\n")
    (root / "labels/train/00.txt").write_text("0 .5 .5 .2 .2 .1 .1 2 .9 .9 1\n")
    torch.testing.assert_close(read_boxes(root, "train").targets[0].boxes, torch.tensor([[0.4, 0.4, 0.6, 0.6]]))


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "-0.2", "1.2"])
def test_numbers_that_are_no_shares_are_refused(root, number):
    for row in (f"0 {number} .5 .2 .2", f"0 .5 .5 {number} .2", f"0 .1 .1 .2 {number} .3 .3"):
        (root / "labels/train/00.txt").write_text(row + "\n")
        with pytest.raises(ValueError, match=r"00\.txt:1: expected shares"):
            read_boxes(root, "train")


def test_two_images_that_share_their_labels_are_refused(root):
    (root / "images/train/00.jpg").write_bytes((root / "images/train/00.png").read_bytes())
    with pytest.raises(ValueError, match=r"00\.jpg and .*00\.png would share the labels .*00\.txt"):
        read_boxes(root, "train")


@pytest.mark.parametrize("line", ["0 0.5 0.5 0_1 0.2", "0_1 0.5 0.5 0.1 0.2"])
def test_an_underscore_is_no_part_of_a_number(root, line):
    (root / "labels" / "train" / "00.txt").write_text(line)
    with pytest.raises(ValueError, match=r"00\.txt:1: expected numbers"):
        read_boxes(root, "train")


def test_labels_that_a_link_has_lost_are_not_taken_for_none(root):
    file = root / "labels" / "train" / "00.txt"
    file.unlink()
    assert len(read_boxes(root, "train").targets[0].labels) == 0
    file.symlink_to("gone.txt")
    with pytest.raises(FileNotFoundError, match=r"00\.txt is a folder, or a link that leads nowhere"):
        read_boxes(root, "train")
