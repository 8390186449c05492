"""What is dropped is decoded by our own readers, and bounded before it is decoded."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from messages import says
from pst.explore import clip as clips
from pst.explore.clip import read_clip, read_labels
from pst.io.image_file import CorruptImageError
from tiny_clips import moving, write_video


def picture(path, size=(40, 30), colour=(10, 200, 30)):
    Image.new("RGB", size, colour).save(path)
    return path


def test_one_image(tmp_path):
    found = read_clip([picture(tmp_path / "a.png")])
    assert found.names == ("a.png",)
    assert found.size == found.frames[0].size == (40, 30)
    assert np.asarray(found.frames[0])[3, 3].tolist() == [10, 200, 30]


def test_images_in_the_order_in_which_they_were_dropped(tmp_path):
    files = [picture(tmp_path / "b.png", colour=(1, 1, 1)), picture(tmp_path / "a.png", colour=(2, 2, 2))]
    assert [np.asarray(frame)[0, 0, 0] for frame in read_clip(files).frames] == [1, 2]


def test_a_video(tmp_path):
    truth = moving(6)
    found = read_clip([write_video(truth, tmp_path / "clip.mp4")])
    assert len(found.frames) == 6
    assert found.names[5] == "clip.mp4, frame 5"
    assert np.abs(np.asarray(found.frames[2], int) - truth.frames[2]).mean() < 20


def test_large_pictures_are_kept_small(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "PICTURE_EDGE", 20)
    found = read_clip([picture(tmp_path / "a.png")])
    assert (found.frames[0].size, found.size) == ((20, 15), (40, 30))


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("MOST_BYTES", 10, "a.png … MiB … at most"),
        ("MOST_PIXELS", 1000, "a.png … 40×30 … pixels at most"),
    ],
)
def test_too_large_a_file_is_refused_before_it_is_decoded(limit, value, said, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, limit, value)
    monkeypatch.setattr(clips, "read_rgb", lambda path: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=says(said)):
        read_clip([picture(tmp_path / "a.png")])


def test_too_long_a_video_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "MOST_FRAMES", 5)
    with pytest.raises(ValueError, match=says("clip.mp4 … 6 frames … 5")):
        read_clip([write_video(moving(6), tmp_path / "clip.mp4")])


def test_images_of_two_sizes_and_mixed_files_are_refused(tmp_path):
    files = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (41, 30))]
    with pytest.raises(ValueError, match=says("b.png … 41×30 … 40×30")):
        read_clip(files)
    with pytest.raises(ValueError, match=says("clip.mp4 … images alone")):
        read_clip([files[0], write_video(moving(2), tmp_path / "clip.mp4")])
    with pytest.raises(ValueError, match="nothing was dropped"):
        read_clip([])


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.txt", "a.mp4", "a.pt"])
def test_what_is_no_picture_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    with pytest.raises(OSError, match=name):
        read_clip([tmp_path / name])


def test_a_mask_is_of_the_first_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "PICTURE_EDGE", 20)
    clip = read_clip([picture(tmp_path / "a.png")])
    labels = np.zeros((30, 40), np.uint8)
    labels[:, 20:] = 7
    Image.fromarray(labels).save(tmp_path / "mask.png")
    mask = np.asarray(read_labels(tmp_path / "mask.png", clip))
    assert mask.shape == (15, 20)
    assert (mask[:, :10] == 0).all()
    assert (mask[:, 10:] == 7).all()
    Image.fromarray(labels[:20]).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=says("small.png … 40×20 … 40×30")):
        read_labels(tmp_path / "small.png", clip)
    for there in (clip, None):  # also before the picture
        with pytest.raises(ValueError, match="mask"):
            read_labels(picture(tmp_path / "rgb.png", colour=(1, 2, 3)), there)
    assert read_labels(tmp_path / "small.png", None) is None


@pytest.mark.parametrize(("name", "videos"), [("a.flv", True), ("a.png", False)])
def test_what_might_have_been_a_video_is_told_the_endings_of_videos(name, videos, tmp_path):
    (tmp_path / name).write_text("neither")
    with pytest.raises(CorruptImageError, match="it is none of JPEG") as error:
        read_clip([tmp_path / name])
    assert (".mp4" in str(error.value)) is videos
