"""Videos, points and runs that are damaged a little: a valid result, or one sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fuzz
from pst.io.image_file import CorruptImageError
from pst.propagate.clip import propagate_clip
from pst.propagate.frames import open_frames
from pst.propagate.network import Network
from pst.propagate.points import read_tracks
from pst.propagate.video import CorruptVideoError
from tiny_clips import QUICK, moving, patches, write_folder, write_mask, write_video

ANY = (ValueError, FileNotFoundError, FileExistsError, CorruptImageError, CorruptVideoError)


def make_video(ending: str, codec: str):
    def make(root: Path) -> list[Path]:
        return [write_video(moving(5), root / f"a.{ending}", codec=codec, options={"g": "2"})]

    return make


def read_video(root: Path) -> None:
    [path] = root.glob("a.*")
    frames = open_frames(path)
    shapes = {frame.shape for frame in frames.read()}
    assert shapes == {(frames.size[1], frames.size[0], 3)}
    assert list(frames.seconds) == sorted(frames.seconds)


def make_points(root: Path) -> list[Path]:
    write_folder(moving(3), root / "frames")
    (root / "p.csv").write_text('frame,id,x,y\n0,a,1,2\n0,"b, c",63.5,4e1\n2,"b, c",1,1\n2,a,5,6\n')
    return [root / "p.csv"]


def read_points(root: Path) -> None:
    tracks = read_tracks(root / "p.csv", open_frames(root / "frames"))
    for xy in tracks.xy.values():
        assert xy.shape == (len(tracks.ids), 2)
        assert np.isfinite(xy).all()


def make_run(root: Path) -> list[Path]:
    write_folder(moving(3), root / "frames")
    write_mask(moving(3).masks[0], root / "first.png")
    (root / "p.csv").write_text("frame,id,x,y\n0,a,1,2\n")
    go_on(root)
    return [*sorted((root / "out/masks").iterdir()), *sorted((root / "out/points").iterdir()), root / "out/run.json"]


def go_on(root: Path) -> None:
    (root / "out/sheet.jpg").unlink(missing_ok=True)
    (root / "out/masks/f3.png").unlink(missing_ok=True)
    given = {"f1": root / "first.png"}
    options = {"points": root / "p.csv", "network": Network(patches), "progress": False, "video": False, **QUICK}
    assert propagate_clip(root / "frames", given, root / "out", **options).frames == 3


@pytest.mark.parametrize(
    ("name", "make", "read", "tries"),
    [
        ("mp4", make_video("mp4", "libx264"), read_video, 60),
        ("mkv", make_video("mkv", "libx264"), read_video, 60),
        ("avi", make_video("avi", "mpeg4"), read_video, 30),
        ("points", make_points, read_points, 150),
        ("run", make_run, go_on, 20),
    ],
)
def test_damaged_files(name, make, read, tries, tmp_path):
    assert fuzz.run(fuzz.Target(make, read, ANY), tmp_path / "a", tries=tries, name=name) > 0
