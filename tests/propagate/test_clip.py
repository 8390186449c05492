"""One clip through the files that it writes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from messages import says
from pst.io.checkpoints import load_safetensors, save_safetensors
from pst.io.files import WriteError
from pst.propagate.clip import propagate_clip
from pst.propagate.frames import open_frames
from pst.propagate.network import Network
from pst.propagate.run_folder import RunFolder
from tiny_clips import (
    QUICK,
    Stopping,
    agreement,
    moving,
    patches,
    picture,
    read_back,
    write_folder,
    write_mask,
    write_video,
)

ALL = ("masks", "points", "points.csv", "overlay.mp4", "sheet.jpg", "run.json")


@pytest.fixture(scope="module")
def clip():
    return moving()


@pytest.fixture(scope="module")
def video(clip, tmp_path_factory):
    return write_video(clip, tmp_path_factory.mktemp("video") / "a.mp4")


@pytest.fixture(scope="module")
def masks(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    return [write_mask(mask, folder / f"{i}.png") for i, mask in enumerate(clip.masks)]


def carried(source, given, out, features=patches, **options):
    return propagate_clip(source, given, out, network=Network(features), progress=False, **{**QUICK, **options})


def content(out: Path) -> Mapping[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def points_file(path: Path, clip, frames) -> Path:
    rows = [
        f"{i},{name},{clip.centre[i][0] + dx},{clip.centre[i][1]}" for i in frames for name, dx in (("a", 0), ("b", 3))
    ]
    path.write_text("\n".join(["frame,id,x,y", *rows]) + "\n")
    return path


def test_forward_and_backward(clip, video, masks, tmp_path):
    result = carried(video, {4: masks[4]}, tmp_path / "out")
    assert (result.frames, result.carried) == (10, 10)
    found = [read_back(tmp_path / "out/masks" / f"{i:06d}.png") for i in range(10)]
    assert (found[4] == clip.masks[4]).all()
    assert min(agreement(f, m) for f, m in zip(found, clip.masks, strict=True)) > 0.75
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["masks", "overlay.mp4", "run.json", "sheet.jpg"]


def test_a_video_and_a_folder_give_the_same(clip, video, masks, tmp_path):
    folder = write_folder(clip, tmp_path / "frames")
    carried(video, {0: masks[0]}, tmp_path / "video")
    carried(folder, {"f1": masks[0]}, tmp_path / "folder")
    for i in range(10):
        found = (
            read_back(tmp_path / "video/masks" / f"{i:06d}.png"),
            read_back(tmp_path / f"folder/masks/f{i + 1}.png"),
        )
        assert (found[0] == found[1]).all()


def test_a_second_annotation_is_used_on_both_sides_and_written_as_it_is(clip, video, masks, tmp_path):
    wrong = np.where(clip.masks[5] == 1, 7, clip.masks[5]).astype(np.uint8)
    second = write_mask(wrong, tmp_path / "second.png")
    carried(video, {0: masks[0], 5: second}, tmp_path / "out", annotated=1)
    found = [read_back(tmp_path / "out/masks" / f"{i:06d}.png") for i in range(10)]
    assert (found[0] == clip.masks[0]).all()
    assert (found[5] == wrong).all()
    assert 1 in found[1]
    assert all(7 in f for f in found[4:])


def test_masks_from_a_folder_by_number_or_name(clip, masks, tmp_path):
    folder = write_folder(clip, tmp_path / "frames")
    write_mask(clip.masks[0], tmp_path / "masks/f1.png")
    write_mask(clip.masks[9], tmp_path / "masks/9.png")
    carried(folder, tmp_path / "masks", tmp_path / "out")
    assert set(json.loads((tmp_path / "out/run.json").read_text())["masks"]) == {"0", "9"}


def test_when_all_frames_are_annotated_nothing_is_computed(clip, video, masks, tmp_path):
    carried(video, dict(enumerate(masks)), tmp_path / "out", features=Stopping(0))
    assert all((read_back(tmp_path / "out/masks" / f"{i:06d}.png") == m).all() for i, m in enumerate(clip.masks))


@pytest.mark.parametrize("size", [(51, 37), (33, 64)])
def test_odd_sizes(size, tmp_path):
    clip = moving(4, size=size)
    carried(
        write_folder(clip, tmp_path / "frames"), {0: write_mask(clip.masks[0], tmp_path / "m.png")}, tmp_path / "out"
    )
    assert read_back(tmp_path / "out/masks/f4.png").shape == size[::-1]
    shown = open_frames(tmp_path / "out/overlay.mp4")
    assert shown.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert len(shown) == 4


# ------------------------------------------------------------------------------------------------ points


def test_points_follow_a_known_shift(clip, video, masks, tmp_path):
    file = points_file(tmp_path / "p.csv", clip, [2])
    carried(video, {2: masks[2]}, tmp_path / "out", points=file)
    rows = list(csv.DictReader((tmp_path / "out/points.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["a", "b"] * 10
    for row in rows:
        x, y = clip.centre[int(row["frame"])]
        assert abs(float(row["x"]) - x - 3 * (row["id"] == "b")) < 2
        assert abs(float(row["y"]) - y) < 2
        assert 0 <= float(row["confidence"]) <= 1
    given = [row for row in rows if row["frame"] == "2"]
    assert [(float(row["x"]), float(row["confidence"])) for row in given] == [(14, 1), (17, 1)]
    one = (tmp_path / "out/points/000007.csv").read_text().splitlines()
    assert one[0] == "frame,id,x,y,confidence"
    assert [line.split(",")[0] for line in one[1:]] == ["7", "7"]


def test_points_alone(clip, video, tmp_path):
    carried(video, None, tmp_path / "out", points=points_file(tmp_path / "p.csv", clip, [0, 9]))
    assert not (tmp_path / "out/masks").exists()
    assert len((tmp_path / "out/points.csv").read_text().splitlines()) == 21


# ------------------------------------------------------------------------------------------------ what is written


def test_the_palette_is_the_first_masks(clip, video, tmp_path):
    palette = [0, 0, 0, 10, 20, 30, 200, 100, 50]
    first = write_mask(clip.masks[0], tmp_path / "a.png", palette)
    second = write_mask(clip.masks[5], tmp_path / "b.png", [9] * 768)
    carried(video, {5: second, 0: first}, tmp_path / "out")
    for i in (0, 3, 5):
        with Image.open(tmp_path / "out/masks" / f"{i:06d}.png") as image:
            assert image.mode == "P"
            assert (image.getpalette() or [])[: len(palette)] == palette


def test_a_mask_without_a_palette_gets_one_that_can_be_seen(video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "out")
    with Image.open(tmp_path / "out/masks/000003.png") as image:
        colours = np.array(image.getpalette()).reshape(-1, 3)
    assert (colours[0] == 0).all()
    assert len(np.unique(colours[1:64], axis=0)) == 63
    assert (colours[1:].max(1) > 150).all()


def test_the_video_is_shown_when_the_clip_is(clip, masks, tmp_path):
    ticks = [0, 1, 2, 5, 6, 7, 12, 13, 20, 30]
    source = write_video(clip, tmp_path / "a.mkv", ticks=ticks)
    carried(source, {0: masks[0]}, tmp_path / "out")
    shown = open_frames(tmp_path / "out/overlay.mp4")
    assert [round(float(s) * 30) for s in shown.seconds] == ticks
    painted = next(shown.read(9, 10)).astype(int)
    assert np.abs(painted - clip.frames[9]).max() > 40  # colours over it


def test_frames_closer_than_a_video_can_tell_follow_one_another(clip, masks, tmp_path):
    source = write_video(
        clip,
        tmp_path / "a.mp4",
        ticks=[0, 3000, 3001, 3002, 3003, 9000, 12000, 12001, 12002, 12003],
        base=Fraction(1, 90_000),
    )
    carried(source, {0: masks[0]}, tmp_path / "out")
    shown = open_frames(tmp_path / "out/overlay.mp4")
    assert len(shown) == 10
    assert list(shown.seconds) == sorted(set(shown.seconds))
    assert float(shown.seconds[5]) == pytest.approx(0.1, abs=1e-3)


def test_the_video_has_the_frame_rate_of_the_clip(video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "out")
    assert open_frames(tmp_path / "out/overlay.mp4").rate == 30


def test_no_video_where_none_is_wanted(video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "out", video=False)
    assert not (tmp_path / "out/overlay.mp4").exists()
    assert carried(video, {0: masks[0]}, tmp_path / "out").carried == 0  # the same run, now with a video
    assert (tmp_path / "out/overlay.mp4").is_file()


def test_the_sheet_shows_a_dozen_frames(video, masks, tmp_path):
    carried(video, {0: masks[0], 6: masks[6]}, tmp_path / "out")
    with Image.open(tmp_path / "out/sheet.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert sheet.width > 4 * 300
        red = (np.array(sheet).astype(int) @ np.array([1, -1, -1])) > 150
        assert red.any()  # frames around annotated ones


def test_the_sheet_numbers_frames_as_mask_does(video, masks, tmp_path, monkeypatch):
    texts = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _self, _place, text, **_: texts.append(text))
    carried(video, {0: masks[0], 6: masks[6]}, tmp_path / "out")
    given = {0: ", given", 6: ", given"}
    assert texts[: len(masks)] == [f"frame {i}{given.get(i, '')}" for i in range(len(masks))]


def test_the_sheet_says_which_colour_is_which_label(video, masks, tmp_path, monkeypatch):
    texts, boxes = [], []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _self, _place, text, **_: texts.append(text))
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "rectangle", lambda _self, _box, fill=None, **_: fill and boxes.append(fill)
    )
    carried(video, {0: masks[0]}, tmp_path / "out", threshold=0)
    written = [np.unique(np.array(Image.open(path))) for path in sorted((tmp_path / "out/masks").iterdir())]
    labels = [label for label in sorted(set(np.concatenate(written).tolist())) if label != 0]  # 0 is not painted
    assert len(labels) > 0
    assert texts[len(masks) :] == [str(label) for label in labels]
    with Image.open(next((tmp_path / "out/masks").iterdir())) as mask:
        palette = mask.getpalette()
    assert boxes == [tuple(palette[3 * label : 3 * label + 3]) for label in labels]


def test_the_sheet_names_images_of_a_folder_too(clip, masks, tmp_path, monkeypatch):
    folder, texts = write_folder(clip, tmp_path / "frames"), []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _self, _place, text, **_: texts.append(text))
    carried(folder, {0: masks[0]}, tmp_path / "out")
    assert texts[:2] == ["frame 0: f1, given", "frame 1: f2"]


def test_the_record_names_what_the_run_was_made_with(video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "out", topk=3)
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["settings"]["topk"] == 3
    assert record["settings"]["features"].endswith("patches")
    assert record["clip"]["name"] == "a.mp4"
    assert len(record["masks"]["0"]["digest"]) == 64
    assert {"pst", "torch", "numpy"} <= set(record["versions"])


def test_overwriting_leaves_nothing_of_a_longer_clip(clip, video, masks, tmp_path):
    points = points_file(tmp_path / "p.csv", clip, [0])
    carried(video, {0: masks[0]}, tmp_path / "out", points=points)
    (tmp_path / "out/masks/mine.png").write_bytes(b"not of a run")
    folder = write_folder(moving(3), tmp_path / "frames")
    carried(folder, {0: masks[0]}, tmp_path / "out", points=points, overwrite=True)
    assert sorted(p.stem for p in (tmp_path / "out/masks").iterdir()) == ["f1", "f2", "f3", "mine"]
    assert sorted(p.stem for p in (tmp_path / "out/points").iterdir()) == ["f1", "f2", "f3"]


def test_a_record_names_no_file_outside_its_folder(clip, video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "out")
    file, mine = tmp_path / "out/run.json", tmp_path / "mine.png"
    record = json.loads(file.read_text())
    for names in (["../../mine", str(tmp_path / "mine"), 3, None, "\0"], "mine", {"a": 1}):
        mine.write_bytes(b"not of a run")
        record["clip"]["names"] = names
        file.write_text(json.dumps(record))
        carried(video, {0: masks[0]}, tmp_path / "out", overwrite=True)
        assert mine.is_file()


def test_unknown_where_no_label_is_sure(video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "all")
    carried(video, {0: masks[0]}, tmp_path / "sure", threshold=0.9)
    assert 255 not in read_back(tmp_path / "all/masks/000009.png")
    assert 255 in read_back(tmp_path / "sure/masks/000009.png")


# ------------------------------------------------------------------------------------------------ resuming


@pytest.fixture(scope="module")
def whole(clip, video, masks, tmp_path_factory):
    """A run without interruption: annotations in frames 3 and 6, two frames remembered."""
    folder = tmp_path_factory.mktemp("whole")
    given, points = {3: masks[3], 6: masks[6]}, points_file(folder / "p.csv", clip, [3, 6])
    carried(video, given, folder / "out", points=points, features=Stopping())
    return given, points, content(folder / "out")


# 2 calls for the annotated frames, then 4, 5, 7, 8, 9 forward and 2, 1, 0 backward
@pytest.mark.parametrize("calls", [0, 2, 3, 4, 5, 6, 7, 8, 9])
def test_an_interrupted_run_goes_on_bit_for_bit(calls, video, whole, tmp_path):
    given, points, wanted = whole
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        carried(video, given, out, points=points, features=Stopping(calls))
    before = content(out)
    assert "sheet.jpg" not in before
    result = carried(video, given, out, points=points, features=Stopping())
    assert 0 < result.carried <= 10 - len([name for name in before if name.startswith("masks/")])
    assert content(out) == wanted


def test_without_memory_what_is_there_is_not_computed_again(clip, video, masks, tmp_path):
    given, out = {0: masks[0]}, tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        carried(video, given, out, memory=0, features=Stopping(6))  # the annotated frame, then 1 to 5
    left = Stopping(1 + 4)
    assert carried(video, given, out, memory=0, features=left).carried == 4
    carried(video, given, tmp_path / "whole", memory=0, features=Stopping())
    assert content(out) == content(tmp_path / "whole")


def test_interrupted_again_and_again(video, whole, tmp_path):
    given, points, wanted = whole
    for _ in range(12):
        try:
            carried(video, given, tmp_path / "out", points=points, features=Stopping(5))
            break
        except KeyboardInterrupt:
            continue
    assert content(tmp_path / "out") == wanted


@pytest.mark.parametrize("lost", ["masks/000008.png", "points/000001.csv", "overlay.mp4", "points.csv", "sheet.jpg"])
def test_a_file_that_is_lost_is_made_again(lost, video, whole, tmp_path):
    given, points, wanted = whole
    for name, data in wanted.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(data)
    (tmp_path / "out" / lost).unlink()
    carried(video, given, tmp_path / "out", points=points, features=Stopping())
    assert content(tmp_path / "out") == wanted


def test_a_killed_process_leaves_whole_files(clip, video, masks, tmp_path):
    given = write_mask(clip.masks[0], tmp_path / "m.png")
    code = (
        "import sys; from tiny_clips import *; from pst.propagate.clip import propagate_clip\n"
        "from pst.propagate.network import Network\n"
        f"propagate_clip({str(video)!r}, {{0: {str(given)!r}}}, sys.argv[1], network=Network(patches),\n"
        "    progress=False, **QUICK)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), *sys.path]))}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], env=env)
    while not (tmp_path / "out/masks/000003.png").is_file() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    carried(video, {0: given}, tmp_path / "out")
    carried(video, {0: given}, tmp_path / "straight")
    assert content(tmp_path / "out") == content(tmp_path / "straight")


def test_a_finished_run_is_left_alone(video, whole, tmp_path, masks):
    carried(video, {0: masks[0]}, tmp_path / "out", features=Stopping())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    assert carried(video, {0: masks[0]}, tmp_path / "out", features=Stopping(0)).carried == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"topk": 2}, "topk (8, now 2) … --overwrite"),
        ({"features": Stopping()}, "features ( … Stopping) … --overwrite"),
        ({"masks": [1]}, "masks (of frame 0) … --overwrite"),
        ({"masks": [0, 1]}, "masks (of frame 5) … --overwrite"),
        ({"clip": 1}, "frames (a.mp4, now b.mp4) … --overwrite"),
        ({"points": True}, "points … --overwrite"),
    ],
)
def test_another_run_in_the_same_folder(change, parts, clip, video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "out", video=False)
    before = content(tmp_path / "out")
    source, given = video, {0: masks[0]}
    options: dict[str, Any] = {"video": False}
    if "masks" in change:
        given = dict(zip((0, 5), (masks[i] for i in change["masks"]), strict=False))
    elif "clip" in change:
        source = write_video(moving(10, seed=1), tmp_path / "b.mp4")
    elif "points" in change:
        options["points"] = points_file(tmp_path / "p.csv", clip, [0])
    else:
        options |= change
    with pytest.raises(ValueError, match=says(parts)) as caught:
        carried(source, given, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert content(tmp_path / "out") == before
    carried(source, given, tmp_path / "out", overwrite=True, **options)
    carried(source, given, tmp_path / "fresh", **options)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_folder_with_other_files_is_refused(video, masks, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=says("out is not empty … choose another folder")):
            carried(video, {0: masks[0]}, tmp_path / "out", overwrite=overwrite)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_inputs_in_the_folder_of_results_are_refused(clip, video, masks, tmp_path):
    given = write_mask(clip.masks[0], tmp_path / "out/masks/000000.png")
    with pytest.raises(ValueError, match=says("000000.png lies in … choose another folder")):
        carried(video, {0: given}, tmp_path / "out", overwrite=True)
    assert given.is_file()


# ------------------------------------------------------------------------------------------------ refused


def empty_points(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("mask", "parts"),
    [
        ({}, "no mask for … a.mp4 … --mask 0=first.png"),
        ({"10": "good"}, "a.mp4 has no frame '10' … 0 to 9"),
        ({"-1": "good"}, "a.mp4 has no frame '-1'"),
        ({"\x1b[31m": "good"}, "a.mp4 has no frame '\\x1b[31m'"),
        ({"0": "none"}, "no image at … none.png"),
        ({"0": "large"}, "large.png is 64×50 … a.mp4 are 64×48"),
        ({"0": "labels"}, "labels.png holds the label 300 … 0 to 254"),
        ({"0": "colour"}, "colour.png is a picture (RGB), not a mask"),
        ({"0": "text"}, "text.png cannot be decoded"),
        ({"0": "unlabelled"}, "unlabelled.png has no label … 255"),
        ({"0": "good", "00": "good2"}, "two masks for frame 0 … good.png and … good2.png"),
    ],
)
def test_a_wrong_mask_is_refused_in_one_sentence_before_any_work(mask, parts, clip, video, tmp_path):
    write_mask(clip.masks[0], tmp_path / "good.png")
    write_mask(clip.masks[0], tmp_path / "good2.png")
    write_mask(np.zeros((50, 64), np.uint8), tmp_path / "large.png")
    write_mask(np.full((48, 64), 300, np.uint16), tmp_path / "labels.png")
    write_mask(np.full((48, 64), 255, np.uint8), tmp_path / "unlabelled.png")
    write_mask(picture(0, (48, 64)), tmp_path / "colour.png")
    (tmp_path / "text.png").write_text("<script>alert(1)</script>")
    with pytest.raises((OSError, ValueError), match=says(parts)) as caught:
        carried(video, {k: tmp_path / f"{v}.png" for k, v in mask.items()}, tmp_path / "out", features=Stopping(0))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("masks", [["first.png"], [Path("first.png")], [("0", "first.png", 1)]])
def test_masks_that_are_no_pairs_are_refused(masks, video, tmp_path):
    with pytest.raises(TypeError, match=says("masks are pairs of a frame and a file … {0: 'first.png'} … first.png")):
        carried(video, masks, tmp_path / "out", features=Stopping(0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", "p.csv:1 must be the header frame,id,x,y"),
        ("frame,x,y\n0,1,2\n", "p.csv:1 must be the header"),
        ("frame,id,x,y\n", "p.csv holds no points"),
        ("frame,id,x,y\n0,a,1\n", "p.csv:2 has 3 cells"),
        ("frame,id,x,y\n0,a,1,2\n0,b,64.5,2\n", "p.csv:3 is outside the picture … 0 to 64 … '64.5'"),
        ("frame,id,x,y\n0,a,nan,2\n", "p.csv:2 is outside the picture"),
        ("frame,id,x,y\n0,a,=1+1,2\n", "p.csv:2: x is '=1+1', which is not a number"),
        ("frame,id,x,y\n0,a,12,\n", "p.csv:2: y is '', which is not a number"),
        ("frame,id,x,y\n77,a,1,2\n", "p.csv:2 … no frame '77'"),
        ("frame,id,x,y\n0,a,1,2\n0,a,1,3\n", "p.csv:3 … 'a' already"),
        ("frame,id,x,y\n0,a,1,2\n5,b,1,2\n", "every frame must have the same ids … 5"),
        ("frame,id,x,y\n5,a,1,2\n", "frame 0 … mask and no points"),
        ("frame,id,x,y\n0,a,1,2\n5,a,1,2\n", "frame 5 … points and no mask"),
        ("\0\0", "p.csv is UTF-16 or no text"),
        ("frame,id,x,y\n0," + "a" * 200_000 + ",1,2\n", "p.csv"),
    ],
)
def test_wrong_points_are_refused_in_one_sentence_before_any_work(text, parts, video, masks, tmp_path):
    file = empty_points(tmp_path / "p.csv", text)
    with pytest.raises((OSError, ValueError), match=says(parts)) as caught:
        carried(video, {0: masks[0]}, tmp_path / "out", points=file, features=Stopping(0))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_seen_before_any_work(video, masks, tmp_path, monkeypatch):
    monkeypatch.setattr("pst.io.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(WriteError, match=says("out needs … MB … free")):
        carried(video, {0: masks[0]}, tmp_path / "out", features=Stopping(0))


def test_a_setting_out_of_range(video, masks, tmp_path):
    with pytest.raises(ValueError, match=says("threshold … from 0 to 1")):
        carried(video, {0: masks[0]}, tmp_path / "out", threshold=2)


def test_a_mask_of_an_earlier_run_that_is_damaged_is_named(video, masks, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        carried(video, {0: masks[0]}, tmp_path / "out", features=Stopping(4))
    (tmp_path / "out/masks/000003.png").write_bytes(b"x")
    with pytest.raises(OSError, match=says("000003.png cannot be decoded")):
        carried(video, {0: masks[0]}, tmp_path / "out", features=Stopping())


def test_names_with_control_characters_and_html(clip, masks, tmp_path):
    folder = write_folder(clip, tmp_path / "<script>\x1b[2J", [f"<b>{i}\n" for i in range(10)])
    carried(folder, {0: masks[0]}, tmp_path / "out\x07")
    assert len(list((tmp_path / "out\x07/masks").iterdir())) == 10
    assert "\x1b" not in (tmp_path / "out\x07/run.json").read_text()


def test_an_unknown_device():
    with pytest.raises(ValueError, match=says("device 'nonsense'")):
        Network(device="nonsense")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_refused_in_our_words_where_there_is_none(device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=says(f"there is no {device} here … PyTorch finds no CUDA … use cpu")):
        Network(device=device)


# ------------------------------------------------------------------------------------------- what a reviewer found


def test_a_mask_without_labels_is_named_before_anything_is_lost(video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "out", video=False)
    before = content(tmp_path / "out")
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(ValueError, match=says("empty.png has no label")):
        carried(video, {0: masks[0], 3: tmp_path / "empty.png"}, tmp_path / "out", video=False, overwrite=True)
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_black_and_white_mask_is_no_mask_of_nothing(mode, clip, video, tmp_path):
    white = Image.fromarray(np.where(clip.masks[0] == 1, 255, 0).astype(np.uint8)).convert(mode)
    white.save(tmp_path / "white.png")
    with pytest.raises(ValueError, match=says("white.png holds 0 and 255 alone … black and white … the value 1")):
        carried(video, {0: tmp_path / "white.png"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_run_at_a_time_in_a_folder(video, masks, tmp_path, monkeypatch):
    def meanwhile(*args: Any, **options: Any) -> int:
        with pytest.raises(ValueError, match=says("another run is at work in … out")):
            carried(video, {0: masks[0]}, tmp_path / "out", overwrite=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pst.propagate.clip.carry_through", meanwhile)
        with pytest.raises(KeyboardInterrupt):
            carried(video, {0: masks[0]}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["run.json"]
    carried(video, {0: masks[0]}, tmp_path / "out", video=False)


def test_nothing_is_written_or_removed_through_a_link(video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "out", video=False)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "000001.png").write_text("mine")
    for path in (tmp_path / "out" / "masks").iterdir():
        path.unlink()
    (tmp_path / "out" / "masks").rmdir()
    (tmp_path / "out" / "masks").symlink_to(tmp_path / "private")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(ValueError, match=says("masks is a link to another folder")):
            carried(video, {0: masks[0]}, tmp_path / "out", video=False, **options)
    assert (tmp_path / "private" / "000001.png").read_text() == "mine"


def test_files_of_others_stay_when_a_run_starts_afresh(video, masks, tmp_path):
    carried(video, {0: masks[0]}, tmp_path / "out", video=False)
    (tmp_path / "out" / "masks" / "mine.png").write_text("mine")
    carried(video, {0: masks[0]}, tmp_path / "out", video=False, overwrite=True, topk=2)
    assert (tmp_path / "out" / "masks" / "mine.png").read_text() == "mine"


TAMPERED = {
    "NaN": lambda name, t: (name, t * torch.nan if "shares" in name else t),
    "huge": lambda name, t: (name, t + 1e30 if "shares" in name else t),
    "double": lambda name, t: (name, t.double() if "shares" in name else t),
    "three axes": lambda name, t: (name, t[None] if "shares" in name else t),
    "another label": lambda name, t: (name.replace("shares.1", "shares.7"), t),
    "no label": lambda name, t: (name.replace("shares.1", "shares.x"), t),
    "another frame": lambda name, t: (name, torch.tensor(999) if "number" in name else t),
    "a wrong name": lambda name, t: (name.replace("number", "index"), t),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_state_that_was_tampered_with_makes_no_other_masks(change, video, masks, tmp_path, monkeypatch):
    carried(video, {0: masks[0]}, tmp_path / "whole", video=False)
    write, count = RunFolder.write_state, []

    def killed(folder: RunFolder, state: Any) -> None:
        write(folder, state)
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_state", killed)
        with pytest.raises(KeyboardInterrupt):
            carried(video, {0: masks[0]}, tmp_path / "out", video=False)
    state, _ = load_safetensors(tmp_path / "out" / "state.safetensors")
    changed = dict(change(name, t) for name, t in state.items())
    save_safetensors(changed, tmp_path / "out" / "state.safetensors", {})
    carried(video, {0: masks[0]}, tmp_path / "out", video=False)
    for path in (tmp_path / "whole" / "masks").iterdir():
        assert (tmp_path / "out" / "masks" / path.name).read_bytes() == path.read_bytes()


def test_a_device_without_numbers_is_refused_before_anything_is_written(video, masks, tmp_path):
    with pytest.raises(ValueError, match=says("device 'meta' cannot be used here")):
        carried(video, {0: masks[0]}, tmp_path / "out", network=Network(device="meta"))
    assert not (tmp_path / "out").exists()
