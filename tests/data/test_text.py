"""Encodings: a byte order mark is fine, others are named; in every file of text that a reader opens."""

from __future__ import annotations

import codecs
import json

import pytest

import tiny_data
from pst.data.detection import read_boxes
from pst.data.masks import read_masks
from pst.data.text import read_lines, read_text, shown
from pst.io.names import counted, listed


@pytest.mark.parametrize("text", ["a\nb\n", "a\r\nb\r\n", "a\rb", "\n  a \n\n\tb"])
def test_lines_of_any_system(tmp_path, text):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + text.encode())
    assert read_lines(tmp_path / "a.txt") == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Grün".encode("utf-16"), "a.txt is UTF-16: save it as UTF-8"),
        ("Grün".encode("utf-32"), "a.txt is UTF-32"),
        ("abc".encode("utf-16-le"), "a.txt is UTF-16 or no text"),
        (b"red\nGr\xfcn\n", r"a.txt:2 is not UTF-8.* 0xFC .*Windows-1252"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "a.txt")


def files(tmp_path):
    """A file of each kind that readers open, and how it is read."""
    yolo, coco, masks = (getattr(tiny_data, kind)(tmp_path / kind) for kind in ("yolo", "coco", "masks"))
    (yolo / "train.txt").write_text("images/train/00.png\nimages/train/01.png\nimages/train/02.png\n")
    (yolo / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [red, green, blue]\n")
    for file in ("data.yaml", "train.txt", "labels/train/00.txt"):
        yield yolo / file, lambda: read_boxes(yolo, "train")
    for file in ("data.yaml", "train.json"):
        yield coco / file, lambda: read_boxes(coco, "train")
    for file in ("classes.txt", "train.txt"):
        yield masks / file, lambda: read_masks(masks, "train")


def test_every_file_may_have_a_mark_and_names_another_encoding(tmp_path):
    for file, read in files(tmp_path):
        plain = file.read_bytes()
        wanted = read().classes
        file.write_bytes(codecs.BOM_UTF8 + plain)
        assert read().classes == wanted
        file.write_bytes(plain.decode().encode("utf-16"))
        with pytest.raises(ValueError, match=rf"{file.name} is UTF-16"):
            read()
        file.write_bytes(plain + b"\n# \xe9")
        with pytest.raises(ValueError, match=rf"{file.name}:\d+ is not UTF-8, it has the byte 0xE9"):
            read()
        file.write_bytes(plain)


def test_values_in_messages_are_short_and_obey_nothing():
    assert shown("\x1b[31mred\n") == repr("\x1b[31mred\n")
    assert len(shown("x" * 10_000)) < 70
    assert len(shown(json.loads("[" * 50 + "]" * 50))) < 70


def test_one_is_singular():
    assert [counted(n, "box", "boxes") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]
    assert [counted(n, "name") for n in (1, 3)] == ["1 name", "3 names"]


def test_many_names_are_counted():
    assert listed(["a", "b"]) == "a, b"
    assert listed([f"c{i}" for i in range(3000)], most=2) == "c0, c1 and 2998 more"
