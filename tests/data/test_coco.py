"""COCO JSON as tools write it: read right, left out and counted, or refused with file and entry."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_data
from pst.data.detection import read_boxes
from pst.train.tasks.detection_metrics import draw_segments

coco_mask = pytest.importorskip("faster_coco_eval.core.mask")


@pytest.fixture
def root(tmp_path):
    return tiny_data.coco(tmp_path / "set")


def change(root, edit, split="train"):
    file = root / f"{split}.json"
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))


def annotation(document):
    return document["annotations"][2]


@pytest.mark.parametrize("box", ["absent", None, []])
def test_an_annotation_without_a_box_has_that_of_its_polygon_or_is_left_out(root, box, caplog):
    wanted = read_boxes(root, "train").targets[2]
    edit = {"bbox": box}
    change(root, lambda d: annotation(d).pop("bbox") if box == "absent" else annotation(d).update(edit))
    assert torch.equal(read_boxes(root, "train").targets[2].boxes, wanted.boxes)
    change(root, lambda d: annotation(d).update(segmentation=[[]]))
    split = read_boxes(root, "train")
    assert [len(target.labels) for target in split.targets] == [1, 1, 0, 1, 1, 1, 1, 1]
    assert "left out 1 annotation without a box, the first is" in caplog.text
    assert "train.json: annotation 3" in caplog.text


@pytest.mark.parametrize("size", ["absent", None, 0])
def test_a_size_that_is_not_given_is_read_from_the_image(root, size):
    wanted = read_boxes(root, "train")
    change(root, lambda d: d["images"][2].pop("width") if size == "absent" else d["images"][2].update(width=size))
    split = read_boxes(root, "train")
    assert split.targets[2].size == (64, 48)
    assert torch.equal(split.targets[2].boxes, wanted.targets[2].boxes)


def test_that_size_is_the_upright_one(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(root / "train" / "02.png", exif=exif)
    change(root, lambda d: d["images"][2].update(width=None))
    assert read_boxes(root, "train").targets[2].size == (64, 48)


def test_ids_may_be_text(root):
    wanted = read_boxes(root, "train")

    def edit(document):
        for image in document["images"]:
            image["id"] = f"picture {image['id']}"
        for each in document["annotations"]:
            each["image_id"] = f"picture {each['image_id']}"
            each["category_id"] = str(each["category_id"])

    change(root, edit)
    split = read_boxes(root, "train")
    assert [t.labels.tolist() for t in split.targets] == [t.labels.tolist() for t in wanted.targets]


def test_the_root_category_of_roboflow_is_no_class(root):
    def edit(document):
        for category in document["categories"]:
            category["supercategory"] = "colours"
        document["categories"].insert(0, {"id": 0, "name": "colours", "supercategory": "none"})

    change(root, edit)
    change(root, edit, "val")
    assert read_boxes(root, "train").classes == read_boxes(root, "val").classes == ("red", "green", "blue")


@pytest.mark.parametrize("kind", [int, str])
def test_a_root_that_has_objects_of_its_own_is_a_class_whatever_ids_are_written_as(root, kind):
    def edit(document):
        for category in document["categories"]:
            category["supercategory"] = "colours"
        document["categories"].insert(0, {"id": kind(5), "name": "colours", "supercategory": "none"})
        annotation(document)["category_id"] = kind(5)

    change(root, edit)
    assert read_boxes(root, "train").classes == ("colours", "red", "green", "blue")


def test_classes_are_numbered_as_in_training(root):
    def edit(document):
        document["categories"] = [{"id": 30, "name": "blue"}, {"id": 10, "name": "red"}, {"id": 99, "name": "unused"}]
        document["annotations"] = [a for a in document["annotations"] if a["category_id"] != 20]

    change(root, edit, "val")
    split = read_boxes(root, "val", ("red", "green", "blue"))
    assert split.classes == ("red", "green", "blue")
    assert [target.labels.tolist() for target in split.targets] == [[0], [], [2], [0]]
    change(root, lambda d: d["annotations"][0].update(category_id=99), "val")
    with pytest.raises(ValueError, match="annotation 1 has the unknown category 99"):
        read_boxes(root, "val", ("red", "green", "blue"))


def test_equal_annotations_count_once(root, caplog):
    change(root, lambda d: d["annotations"].extend(dict(d["annotations"][0], id=50 + i) for i in range(2)))
    split = read_boxes(root, "train")
    assert len(split.targets[0].labels) == 1
    assert f"left out 2 objects that are listed twice, the first of {split.images[0]}" in caplog.text


def test_a_box_beyond_the_image_is_clipped_and_one_outside_left_out(root, caplog):
    change(root, lambda d: annotation(d).update(bbox=[32, -12, 400.0, 24]))
    assert read_boxes(root, "train").targets[2].boxes.tolist() == [[0.5, 0, 1, 0.25]]
    change(root, lambda d: annotation(d).update(bbox=[100, 10, 20, 20]))
    assert len(read_boxes(root, "train").targets[2].labels) == 0
    assert "left out 1 box without an area" in caplog.text


BIG = 10**400


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: annotation(d).update(bbox=[1, 2, 3]), r"annotation 3 has the bbox 1, 2, 3: expected"),
        (lambda d: annotation(d).update(bbox=[1, 2, -3, 4]), "annotation 3 has the bbox 1, 2, -3, 4"),
        (lambda d: annotation(d).update(bbox=["1", 2, 3, 4]), "annotation 3 has the bbox '1'"),
        (lambda d: annotation(d).update(bbox="1 2 3 4"), "annotation 3 has the bbox '1 2 3 4'"),
        (lambda d: annotation(d).update(bbox=[True, 2, 3, 4]), "annotation 3 has the bbox True"),
        (lambda d: annotation(d).update(bbox=[1, 2, 3, 1e12]), "annotation 3 has the bbox"),
        (lambda d: annotation(d).update(bbox=[1, 2, 3, BIG]), "annotation 3 has the bbox"),
        (lambda d: annotation(d).update(bbox=[1, 2, 3, float("nan")]), "train.json is not JSON: it holds NaN"),
        (lambda d: annotation(d).update(bbox=[1, 2, 3, float("inf")]), "train.json is not JSON: it holds Infinity"),
        (lambda d: annotation(d).update(category_id=[3]), "annotation 3, category_id has the id a list of 1"),
        (lambda d: annotation(d).update(image_id=None), "annotation 3, image_id has the id None"),
        (lambda d: annotation(d).update(image_id=7), "annotation 3 has the unknown image 7"),
        (lambda d: annotation(d).update(iscrowd="no"), "annotation 3 has iscrowd 'no'"),
        (lambda d: annotation(d).pop("id") and annotation(d).update(bbox=5), "annotation number 3 has the bbox 5"),
        (lambda d: d["annotations"].append(5), "annotations number 9 is 5, expected an object"),
        (lambda d: d["images"][2].pop("id"), "image number 3 has the id None"),
        (lambda d: d["images"][2].update(id=101), "image 101 has the id of another image"),
        (lambda d: d["images"][2].update(file_name=5), "image 102 has the file_name 5"),
        (lambda d: d["images"][2].update(file_name="../val/00.png"), "image 102 has .* outside of"),
        (lambda d: d["images"][2].update(file_name="/etc/hostname"), "image 102 has .* outside of"),
        (lambda d: d["images"][2].update(file_name="01.png"), "image 102 has the same file as image 101"),
        (lambda d: d["images"][2].update(width="64"), "image 102 has the size '64' × 48"),
        (lambda d: d["images"][2].update(width=-1), "image 102 has the size -1 × 48"),
        (lambda d: d["images"][2].update(width=BIG), "image 102 has the size 1000"),
        (lambda d: d["categories"][1].pop("name"), "the class name None"),
        (lambda d: d["categories"][1].update(name="RED"), "the classes 'red' and 'RED'"),
        (lambda d: d["categories"][1].update(id=10), "category 10 has the id of another category"),
        (lambda d: d["categories"].append({"id": 9, "name": 5}), "shows: 5"),
        (lambda d: d.update(annotations=None), "lacks a list of annotations"),
        (lambda d: d.pop("images"), "lacks a list of images"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_entry(root, edit, message):
    change(root, edit)
    with pytest.raises(ValueError, match=message) as error:
        read_boxes(root, "train")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1]", "5", "{", '{"images": 1e', "9" * 5000])
def test_what_is_no_coco_file_is_one_sentence(root, text):
    (root / "train.json").write_text(text)
    with pytest.raises(ValueError, match=r"train\.json is (not JSON|not a COCO file)"):
        read_boxes(root, "train")


def test_no_images_and_windows_paths(root):
    (root / "train" / "sub").mkdir()
    (root / "train" / "02.png").rename(root / "train" / "sub" / "02.png")
    change(root, lambda d: d["images"][2].update(file_name="sub\\02.png"))
    assert read_boxes(root, "train").images[2] == root / "train" / "sub/02.png"
    change(root, lambda d: d.update(images=[], annotations=[]))
    with pytest.raises(FileNotFoundError, match=r"train\.json names no images"):
        read_boxes(root, "train")


# ------------------------------------------------------------------------------------------------------- segmentations


def segmented(root, value):
    change(root, lambda d: annotation(d).update(segmentation=value))
    return read_boxes(root, "train", segments=True).targets[2]


def test_polygons_and_run_lengths_draw_the_same_mask(root):
    mask = np.zeros((48, 64), np.uint8, order="F")
    mask[10:30, 20:50] = 1
    mask[12:14, 22:33] = 0
    packed = coco_mask.encode(mask)
    text = packed["counts"].decode() if isinstance(packed["counts"], bytes) else packed["counts"]
    column = mask.ravel("F")
    edges = np.flatnonzero(np.diff(column)) + 1
    runs = np.diff(np.concatenate([[0], edges, [column.size]])).tolist()
    for counts in (text, runs):
        target = segmented(root, {"size": [48, 64], "counts": counts})
        assert target.segments == [{"size": [48, 64], "counts": runs}]
        np.testing.assert_array_equal(draw_segments(target.segments, (64, 48), 64)[0, :48], mask)
    target = segmented(root, [[], [20, 10, 50, 10, 50, 30, 20, 30]])
    assert draw_segments(target.segments, (64, 48), 64)[0].sum() == 20 * 30


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "no segmentation that can be drawn"),
        ([], "no segmentation that can be drawn"),
        ([[]], "no segmentation that can be drawn"),
        ([[1, 2, 3, 4]], "no segmentation that can be drawn"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no segmentation that can be drawn"),
        ([1, 2, 3, 4, 5, 6], "no segmentation that can be drawn"),
        ([[1, 2, 3, 4, 5, "6"]], "no segmentation that can be drawn"),
        ([[1, 2, 3, 4, 5, 1e30]], "no segmentation that can be drawn"),
        ({"size": [64, 48], "counts": [64 * 48]}, "another size"),
        ({"size": [48, 64], "counts": [64 * 48, 1]}, "don't cover"),
        ({"size": [48, 64], "counts": [-1, 64 * 48 + 1]}, "don't cover"),
        ({"size": [48, 64], "counts": "~~~"}, "don't cover"),
        ({"size": [48, 64], "counts": "o" * 1000}, "don't cover"),
        ({"counts": [1]}, "another size"),
    ],
)
def test_a_segmentation_that_cannot_be_drawn_is_refused_where_it_is_needed(root, value, message):
    with pytest.raises(ValueError, match=f"annotation 3 has .*{message}"):
        segmented(root, value)
    assert len(read_boxes(root, "train").targets[2].labels) == 1  # its box is enough for the others


def test_points_far_away_draw_a_mask_of_the_image(root):
    target = segmented(root, [[-1e8, -1e8, 1e8, -1e8, 1e8, 1e8, -1e8, 1e8]])
    assert draw_segments(target.segments, (64, 48), 64)[0].sum() == 64 * 48


def test_yolo_has_no_segmentations(tmp_path):
    with pytest.raises(ValueError, match="need a COCO file"):
        read_boxes(tiny_data.yolo(tmp_path), "train", segments=True)
