"""What can be known of the data before training is said before training."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import tiny_data
from pst.io.image_file import read_size
from pst.train import fit, load_config
from pst.train.predict import predict_images
from pst.train.tasks import make_task
from pst.train.tasks.segment import classes_at

SMALL = {
    "classify": {"model": "pst_test_resnet", "imgsz": 32},
    "detect": {"backbone": "test_resnet", "imgsz": 64},
    "segment": {"encoder": "test_resnet", "imgsz": 64},
}


def config(kind, root, **options):
    run = {"device": "cpu", "epochs": 1, "batch": 4, "tensorboard": False, "out": str(root / "run")}
    return load_config(kind, overrides={"data": str(root), **SMALL[kind], **run, **options})


def paint(folder, change):
    for file in folder.iterdir():
        Image.fromarray(change(np.array(Image.open(file)))).save(file)


def test_a_class_without_a_training_pixel_is_refused(tmp_path):
    root = tiny_data.masks(tmp_path)
    paint(root / "masks", lambda mask: np.where(mask == 2, 255, mask).astype(np.uint8))
    with pytest.raises(ValueError, match=r"no training mask of .* has a pixel of: green. .* 255 is unlabelled"):
        fit(config("segment", root))
    assert not (root / "run").exists()


def test_a_single_pixel_is_enough(tmp_path):
    root = tiny_data.masks(tmp_path)
    paint(root / "masks", lambda mask: np.where(mask == 2, 255, mask).astype(np.uint8))
    mask = np.array(Image.open(root / "masks" / "train3.png"))
    mask[-1, -1] = 2
    Image.fromarray(mask).save(root / "masks" / "train3.png")
    assert len(make_task(config("segment", root, imgsz=16)).dataset("train")) == 8


def test_one_class_of_pixels_is_refused(tmp_path):
    root = tiny_data.masks(tmp_path)
    paint(root / "masks", lambda mask: np.where(mask == 255, 255, 0).astype(np.uint8))
    (root / "classes.txt").write_text("thing\n")
    with pytest.raises(ValueError, match="has one class, thing"):
        fit(config("segment", root))


def test_validation_without_labels_is_said_and_leaves_the_last_weights_as_the_best(tmp_path, caplog):
    root = tiny_data.masks(tmp_path)
    for i in range(4):
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(root / "masks" / f"val{i}.png")
    run = fit(config("segment", root, epochs=2))
    assert "val, has a labelled pixel: there is no metric" in caplog.text.replace("no mask", "")
    assert (run / "best.safetensors").read_bytes() == (run / "last.safetensors").read_bytes()


def test_objects_that_no_validation_image_shows(tmp_path, caplog):
    root = tiny_data.yolo(tmp_path)
    for file in (root / "labels" / "val").iterdir():
        file.write_text("")
    task = make_task(config("detect", root))
    task.dataset("val")
    assert "val, shows an object: there is no metric" in caplog.text
    found = {"index": 0, "size": (64, 48), "boxes": [[1.0, 1, 9, 9]], "scores": [0.9], "labels": [0]}
    assert math.isnan(task.metrics([found], task.split("val"))["map"])


def test_one_class_of_images_trains_and_says_so(tmp_path, caplog):
    root = tiny_data.folder(tmp_path)
    for split in ("train", "val"):
        for name in ("green", "blue"):
            for file in (root / split / name).iterdir():
                file.unlink()
            (root / split / name).rmdir()
    run = fit(config("classify", root, batch=64))
    assert "batch=64 is more than the 4 training images: each epoch is one step" in caplog.text
    assert "has one class, red: every answer is right" in caplog.text
    assert "1" in (run / "results.csv").read_text().splitlines()[1].split(",")
    task = make_task(config("classify", root))
    assert task.metrics([], task.split("val"))["top1"] == 1


@pytest.mark.parametrize("kind", ["classify", "detect"])
def test_a_class_whose_images_are_all_corrupt_is_refused(tmp_path, kind):
    root = {"classify": tiny_data.folder, "detect": tiny_data.yolo}[kind](tmp_path)
    files = sorted((root / "train" / "green").iterdir()) if kind == "classify" else [
        root / "images" / "train" / f"{i:02d}.png" for i in (1, 4, 7)
    ]  # fmt: skip
    for file in files:
        tiny_data.corrupt(file)
    with pytest.raises(ValueError, match="no training image that can be decoded shows: green"):
        make_task(config(kind, root, skip_corrupt=True)).dataset("train")


def test_annotations_of_another_size_than_the_upright_image_are_refused(tmp_path):
    root = tiny_data.coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = root / "train" / "00.png"
    Image.open(file).save(file, exif=exif)
    with pytest.raises(ValueError, match=r"00\.png is 48×64, upright .* its annotations say 64×48"):
        make_task(config("detect", root)).dataset("train")


def test_labels_lie_on_upright_images_and_predictions_too(tmp_path, caplog):
    """A photo that is stored lying, and the same one stored upright, are one to the trainer and to predict."""
    caplog.set_level(logging.ERROR)
    root = tiny_data.yolo(tmp_path)
    task = make_task(config("detect", root))
    upright = task.dataset("val").__getitems__([0, 1])
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (root / "images").rglob("*.png"):
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    again = make_task(config("detect", root)).dataset("val").__getitems__([0, 1])
    assert torch.equal(upright.images, again.images)
    assert upright.sizes.tolist() == again.sizes.tolist() == [[64, 48]] * 2
    run = fit(config("detect", root, max_steps=1))
    predict_images(run, [root / "images" / "val" / "00.png"], tmp_path / "out", device="cpu")
    assert read_size(tmp_path / "out" / "00.png") == (128, 96)  # twice as large, for the tags


@pytest.mark.parametrize("size", [(7, 9), (40, 40), (95, 13), (4, 4)])
def test_classes_at_full_size_are_those_of_one_resize(size, monkeypatch):
    scores = torch.randn(5, 13, 10)
    wanted = F.interpolate(scores[None], size, mode="bilinear")[0].argmax(0)
    assert torch.equal(classes_at(scores, *size).long(), wanted)
    monkeypatch.setattr("pst.train.tasks.segment._MOST_SCORES", 5 * size[1] * 3)  # three rows at a time
    assert torch.equal(classes_at(scores, *size).long(), wanted)
