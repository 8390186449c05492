"""No picture takes the place of an image, of another picture or of anything that a prediction did not write."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from messages import says
from pst.cli import main
from pst.io.image_file import CorruptImageError
from pst.train import fit, load_config
from pst.train.predict import predict_images
from pst.train.prediction_files import list_images, plan_pictures, write_picture
from train_runs import settings


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return fit(load_config("segment", overrides=settings("segment", root, max_steps=1)))


def image(path, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 50, 3), value, dtype=np.uint8)).save(path, format="PNG")
    return path


def test_photos_stay_where_they_are(run, tmp_path, capsys):
    photo = image(tmp_path / "photos" / "a.png")
    before = photo.read_bytes()
    for sources, out in (([photo.parent], photo.parent), ([photo], photo.parent), ([photo.parent], tmp_path / "link")):
        if not (tmp_path / "link").exists():
            (tmp_path / "link").symlink_to(photo.parent)
        assert main(["predict", "--model", str(run), *map(str, sources), "--out", str(out)]) == 2
        assert "holds the images, and the pictures would lie among them" in capsys.readouterr().err
        assert [p.read_bytes() for p in photo.parent.iterdir()] == [before]


def test_files_of_others_stay_and_pictures_of_before_are_replaced(run, tmp_path):
    photo, out = image(tmp_path / "in" / "a.png"), tmp_path / "out"
    predict_images(run, [photo], out)
    first = (out / "a.png").read_bytes()
    assert (out / "a.mask.png").exists()
    predict_images(run, [image(photo, 30)], out)
    assert (out / "a.png").read_bytes() != first
    for name in ("a.png", "a.mask.png"):
        theirs = image(out / name, 7).read_bytes()
        with pytest.raises(FileExistsError, match=f"{name} is not of an earlier run"):
            predict_images(run, [photo], out)
        assert (out / name).read_bytes() == theirs
        (out / name).unlink()
    (out / "predictions.json").write_text("[]")
    with pytest.raises(FileExistsError, match=r"predictions\.json"):
        predict_images(run, [photo], out)
    assert not (out / "a.png").exists()


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (("a/0.png", "b/0.png"), False),
        (("x.jpg", "x.png"), False),
        (("A.png", "a.jpg"), False),
        (("a/caf\u00e9.png", "b/cafe\u0301.png"), False),  # one name on macOS
        (("a.png", "a.mask.png"), True),
        (("a.mask.jpg", "a.png"), True),
    ],
)
def test_two_pictures_of_one_name_are_refused_with_both_images(names, masks, tmp_path):
    files = [image(tmp_path / name) for name in names]
    with pytest.raises(ValueError, match="would both be drawn to") as error:
        plan_pictures(files, tmp_path / "out", masks=masks)
    assert all(str(file) in str(error.value) for file in files)
    assert not (tmp_path / "out").exists()


def test_names_that_differ_are_planned(tmp_path):
    files = [image(tmp_path / name) for name in ("a.png", "a.mask.png", "b c%\n'.jpg", ".png", "ü 画.webp")]
    plan = plan_pictures(files, tmp_path / "out", masks=False)
    assert len({picture for picture, _ in plan}) == len(files)
    assert all(picture.parent == tmp_path / "out" for picture, _ in plan)


def test_a_name_that_is_too_long_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="too long"):
        plan_pictures([image(tmp_path / f"{'x' * 250}.png")], tmp_path / "out", masks=True)


def test_an_image_that_is_given_twice_is_read_once(tmp_path, monkeypatch):
    photo = image(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert len(list_images([photo, tmp_path, "a.png"])) == 1


def test_a_hard_link_to_an_image_is_not_replaced(tmp_path):
    photo = image(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    os.link(photo, tmp_path / "out" / "a.png")
    with pytest.raises(FileExistsError, match="is one of the images"):
        plan_pictures([photo], tmp_path / "out", masks=False)


def test_what_was_found_is_kept_when_a_later_image_is_damaged(run, tmp_path):
    good, bad = image(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"no image")
    parts = "b.png cannot be decoded: … remove it, or pass --skip-corrupt … written before it: 1 picture in … out"
    with pytest.raises(CorruptImageError, match=says(parts)):
        predict_images(run, [good, bad], tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert entry["image"] == str(good)


def test_an_address_is_told_to_be_downloaded():
    with pytest.raises(FileNotFoundError, match=says("no image or folder at … a.jpg: download it first")):
        list_images([Path("https://example.org/a.jpg")])


def test_a_video_is_told_to_come_as_frames(run, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no image")
    with pytest.raises(
        CorruptImageError, match=says("clip.mp4 cannot be decoded: … give images, of a video its frames")
    ):
        predict_images(run, [tmp_path / "clip.mp4"], tmp_path / "out")


def test_damaged_images_are_left_out_and_counted_where_that_is_asked(run, tmp_path, caplog):
    bad = [tmp_path / name for name in ("a.png", "c.png")]
    for file in bad:
        file.write_bytes(b"no image")
    good = image(tmp_path / "b.png")
    argv = ["predict", "--model", str(run), "--out", str(tmp_path / "out"), "--skip-corrupt"]
    assert main([*argv, *map(str, [*bad, good])]) == 0
    assert "left out 2 of 3 images, the first: " in caplog.text
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert entry["image"] == str(good)
    with pytest.raises(CorruptImageError, match=says("no image can be decoded, the first: … a.png")):
        predict_images(run, bad, tmp_path / "none", skip_corrupt=True)


def test_a_picture_says_who_wrote_it_and_keeps_its_pixels(tmp_path):
    mask = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    write_picture(mask, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        assert np.array_equal(np.asarray(read), np.asarray(mask))
        assert read.info == {"Software": "pst predict"}


def test_results_of_val_do_not_replace_annotations(run, tmp_path, capsys):
    (tmp_path / "val.json").write_text('{"images": []}')
    assert main(["val", "--model", str(run), "--topk", "0", "--out", str(tmp_path)]) == 2
    assert "val.json is not of an earlier run" in capsys.readouterr().err
    assert (tmp_path / "val.json").read_text() == '{"images": []}'
    for _ in range(2):  # its own are replaced
        assert main(["val", "--model", str(run), "--topk", "0", "--out", str(tmp_path / "out")]) == 0
