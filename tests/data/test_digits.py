"""The embedded data set: what is promised about its files, its splits, its boxes and its sizes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pst.data import _compose, _sources, digits


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return digits.make(tmp_path_factory.mktemp("digits") / "set", train=12, val=6, imgsz=256, seed=3)


def read_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_labels(root: Path, split: str) -> np.ndarray:
    """(n, 5) of class, centre x, y, width, height as shares of the image."""
    files = sorted((root / "labels" / split).iterdir())
    return np.concatenate([np.loadtxt(file, ndmin=2) for file in files])


def test_the_same_settings_give_the_same_bytes(made, tmp_path):
    again = digits.make(tmp_path / "again", train=12, val=6, imgsz=256, seed=3)
    assert read_files(again.parent) == read_files(made.parent)


def test_another_seed_gives_other_scenes(made, tmp_path):
    other = digits.make(tmp_path / "other", train=1, val=1, imgsz=256, seed=4)
    assert (other.parent / "images/train/0000.jpg").read_bytes() != (made.parent / "images/train/0000.jpg").read_bytes()


def test_a_scene_does_not_depend_on_how_many_there_are(made, tmp_path):
    fewer = read_files(digits.make(tmp_path / "fewer", train=2, val=1, imgsz=256, seed=3).parent)
    whole = read_files(made.parent)
    scenes = [name for name in fewer if name.endswith((".jpg", ".txt"))]
    assert len(scenes) == 6
    assert all(fewer[name] == whole[name] for name in scenes)


def test_ultralytics_reads_the_layout(tmp_path):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    made = digits.make(tmp_path / "set", train=3, val=2)  # its own: Ultralytics writes a cache beside the labels
    info = check_det_dataset(str(made))
    assert info["names"] == {i: str(i) for i in range(10)}
    for split, count in (("train", 3), ("val", 2)):
        labels = YOLODataset(img_path=info[split], data=info, imgsz=256, augment=False).labels
        assert len(labels) == count
        assert all(len(label["cls"]) > 0 and label["shape"] == (256, 256) for label in labels)


def test_no_scan_is_in_both_splits_and_every_scan_in_one():
    target = np.asarray(load_digits(return_X_y=True)[1])
    split = _sources.split_scans(target, 0)
    assert sorted([*split["train"], *split["val"]]) == list(range(len(target)))
    for digit in range(10):
        shares = [np.sum(target[split[name]] == digit) for name in ("train", "val")]
        assert shares[0] == pytest.approx(3 * shares[1], abs=3)


def test_no_pixel_of_a_photo_is_in_both_splits():
    for train, val in zip(_sources.load_photos("train"), _sources.load_photos("val"), strict=True):
        assert train.shape[1] + val.shape[1] == 640


@pytest.mark.parametrize("extent", [12, 24, 72, 140])
def test_a_box_is_tight_around_the_ink(extent):
    """On a plain ground only the digit's own ink is far from both the ground and its halo."""
    scans, labels = _sources.load_scans("val", 0)
    ground = np.full((256, 256, 3), 255, np.uint8)
    for i in range(10):
        rng = np.random.default_rng(i)
        canvas = _compose.background(rng, ground, 256)
        mask = _compose.glyph(scans[labels == i][0], extent)
        _compose.paint(rng, canvas, mask, 60, 80)
        ys, xs = np.nonzero(canvas.max(2) < 0.65)  # the ink is at most 0.3 bright, the ground and its halo are white
        assert np.abs(np.array([xs.min(), ys.min()]) - (60, 80)).max() <= 2
        assert np.abs(np.array([xs.max() + 1, ys.max() + 1]) - (60 + mask.shape[1], 80 + mask.shape[0])).max() <= 2
        assert max(mask.shape) == pytest.approx(extent, rel=0.15, abs=2)


def test_boxes_lie_inside_the_image_and_overlap_nowhere():
    scans, labels = _sources.load_scans("train", 0)
    photo = _sources.load_photos("train")[0]
    for seed in range(20):
        _, boxes = _compose.scene(np.random.default_rng(seed), photo, scans, labels, 256)
        assert len(boxes) >= 3
        covered = np.zeros((256, 256), int)
        for box in boxes:
            assert 0 <= box.left < box.right <= 256
            assert 0 <= box.top < box.bottom <= 256
            covered[box.top : box.bottom, box.left : box.right] += 1
        assert covered.max() == 1


def test_label_lines_say_the_box():
    assert _compose.Box(7, 10, 20, 30, 60).line(100) == "7 0.200000 0.400000 0.200000 0.400000\n"


def test_sizes_differ_widely_and_most_are_easy(tmp_path):
    made = digits.make(tmp_path / "set", train=60, val=1, imgsz=256)
    labels = read_labels(made.parent, "train")
    edges = labels[:, 3:].max(1) * 256
    assert 8 <= edges.min() <= 14
    assert 100 <= edges.max() <= 145
    assert np.mean(edges >= 24) >= 0.45
    assert set(labels[:, 0]) == set(range(10))


@pytest.mark.parametrize("channel", ["ink", "ground"])
def test_ink_stands_out_from_its_ground(channel):
    """Bright on dark, dark on bright, whatever the colour: at least 0.3 of the range apart."""
    level = {"ink": 0.1, "ground": 0.9}[channel]
    scans, _ = _sources.load_scans("train", 0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        canvas = np.full((64, 64, 3), level, np.float32)
        mask = _compose.glyph(scans[seed], 32)
        _compose.paint(rng, canvas, mask, 10, 10)
        ink = canvas[10 : 10 + mask.shape[0], 10 : 10 + mask.shape[1]][mask > 0.99]
        assert np.abs(ink.mean() - level) > 0.3


def test_a_complete_set_is_reused(made):
    before = {path: path.stat().st_mtime_ns for path in made.parent.rglob("*")}
    assert digits.make(made.parent, train=12, val=6, imgsz=256, seed=3) == made
    assert {path: path.stat().st_mtime_ns for path in made.parent.rglob("*")} == before


def test_a_set_of_other_settings_is_refused_and_kept(made):
    before = read_files(made.parent)
    with pytest.raises(ValueError, match=r"holds a digits data set made with .*'train': 12.*delete it or choose"):
        digits.make(made.parent, train=13, val=6, imgsz=256, seed=3)
    assert read_files(made.parent) == before


def test_a_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds no digits data set: choose another folder"):
        digits.make(tmp_path)
    assert read_files(tmp_path) == {"mine.txt": b"precious"}


def test_an_empty_folder_is_filled(tmp_path):
    assert digits.make(tmp_path, train=1, val=1, imgsz=64).is_file()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_compose, "scene", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        digits.make(tmp_path / "set", train=1, val=1)
    assert list(tmp_path.iterdir()) == []


def test_the_set_of_a_faster_process_is_used(tmp_path, monkeypatch):
    target = tmp_path / "set"
    settings = {"train": 1, "val": 1, "imgsz": 64}
    real, done = digits._write_split, []

    def write_split(root, split, *args):
        real(root, split, *args)
        if split == "val" and not done:  # the other process finishes while this one is still writing
            done.append(True)
            digits.make(tmp_path / "other", **settings)
            (tmp_path / "other").rename(target)

    monkeypatch.setattr(digits, "_write_split", write_split)
    assert digits.make(target, **settings) == target / "data.yaml"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(("name", "value"), [("train", 0), ("val", 0), ("imgsz", 63), ("seed", -1)])
def test_a_number_out_of_range_is_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} must be ≥ .*, got {value}"):
        digits.make(tmp_path / "set", **{name: value})
    assert not (tmp_path / "set").exists()


def test_missing_scikit_learn_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.delitem(sys.modules, "pst.data._sources")
    with pytest.raises(ImportError, match=r"scikit-learn and Pillow .*pip install .pyramid-sparse-transformer\[demo\]"):
        digits.make(tmp_path / "set", train=1, val=1)
    assert list(tmp_path.iterdir()) == []


def test_images_are_rgb_of_the_asked_size(tmp_path):
    made = digits.make(tmp_path / "set", train=1, val=1, imgsz=96)
    with Image.open(made.parent / "images/val/0000.jpg") as image:
        assert (image.mode, image.size) == ("RGB", (96, 96))
    assert json.loads((made.parent / digits.STAMP).read_text())["imgsz"] == 96
