"""Folders of a data set: each image once, whatever the links; nothing of the system's."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

import tiny_data
from pst.data.detection import read_boxes
from pst.data.folder import read_folder
from pst.data.masks import read_masks
from pst.data.walk import list_images
from pst.train import prediction_files


def picture(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    return file


def leave_system_files(folder):
    """What Jupyter, macOS and Windows leave behind."""
    picture(folder / ".ipynb_checkpoints" / "a-checkpoint.png")
    picture(folder / "__MACOSX" / "a.png")
    (folder / "._a.png").write_bytes(b"\0\5\x16\7" + bytes(60))
    (folder / ".DS_Store").write_bytes(b"Bud1")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf")


def names(files):
    return [file.name for file in files]


def test_links_are_followed_and_each_image_counts_once(tmp_path):
    top = tmp_path / "top"
    for name in ("a.png", "sub/b.png"):
        picture(top / name)
    picture(tmp_path / "elsewhere" / "c.jpg")
    for target, link in ((".", "loop"), ("..", "up"), ("/", "root"), ("sub", "aaa"), ("../elsewhere", "far")):
        (top / link).symlink_to(target)
    (top / "sub" / "two").symlink_to("loop")
    (top / "sub" / "again.png").symlink_to("../sub/b.png")
    assert [str(file.relative_to(top)) for file in list_images(top)] == ["a.png", "far/c.jpg", "sub/b.png"]
    assert names(list_images(top, recursive=False)) == ["a.png"]


def test_a_link_to_nothing_is_refused_by_name(tmp_path):
    (tmp_path / "a.png").symlink_to("gone.png")
    with pytest.raises(FileNotFoundError, match=r"a\.png is a link to gone\.png"):
        list_images(tmp_path)


def test_a_link_to_itself_is_refused_by_name(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(FileNotFoundError, match=r"loop\.png is a link to loop\.png"):
        list_images(tmp_path)
    (tmp_path / "loop.png").rename(tmp_path / "loop")  # no image: it is passed over
    assert names(list_images(tmp_path)) == ["a.png"]


def test_pipes_are_no_images_and_unread_pictures_are_counted(tmp_path, caplog):
    picture(tmp_path / "a.PNG")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.HEIC").write_bytes(b"photo")
    Image.new("RGB", (8, 8)).save(tmp_path / "d.gif")
    assert names(list_images(tmp_path)) == ["a.PNG", "d.gif"]
    assert "left out 1 picture of a format that is not taken" in caplog.text
    assert "c.HEIC" in caplog.text


def test_system_files_are_neither_images_nor_classes(tmp_path):
    folders = tiny_data.folder(tmp_path / "folders")
    leave_system_files(folders / "train")
    leave_system_files(folders / "train" / "red")
    split = read_folder(folders, "train")
    assert (split.classes, len(split.images)) == (("blue", "green", "red"), 12)
    yolo = tiny_data.yolo(tmp_path / "yolo")
    leave_system_files(yolo / "images" / "train")
    assert len(read_boxes(yolo, "train").images) == 8
    masks = tiny_data.masks(tmp_path / "masks")
    for kind in ("images", "masks"):
        (masks / kind / "val").mkdir()
        for file in list((masks / kind).glob("val*.png")):
            file.rename(masks / kind / "val" / file.name)
        leave_system_files(masks / kind / "val")
    (masks / "val.txt").unlink()
    assert names(read_masks(masks, "val").images) == [f"val{i}.png" for i in range(4)]
    inputs = tmp_path / "inputs"
    picture(inputs / "a.png")
    leave_system_files(inputs)
    assert names(prediction_files.list_images([inputs])) == ["a.png"]


def test_a_loop_in_each_kind_of_data_set(tmp_path):
    folders, yolo = tiny_data.folder(tmp_path / "folders"), tiny_data.yolo(tmp_path / "yolo")
    for folder in (folders / "train" / "red", yolo / "images" / "train"):
        (folder / "one").symlink_to(".")
        (folder / "two").symlink_to("..")
    assert len(read_folder(folders, "train").images) == 12
    assert len(read_boxes(yolo, "train").images) == 8
