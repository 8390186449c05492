"""Frames of videos and folders: all of them, in order, upright, backwards, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from messages import says
from pst.propagate.frames import open_frames
from tiny_clips import Clip, moving, picture, write_folder, write_video


@pytest.fixture(scope="module")
def clip():
    return moving()


def same(found, wanted) -> bool:
    found = list(found)
    return len(found) == len(wanted) and all((a == b).all() for a, b in zip(found, wanted, strict=True))


def test_a_video_and_a_folder_give_the_same_frames(clip, tmp_path):
    video, folder = open_frames(write_video(clip, tmp_path / "a.mp4")), open_frames(write_folder(clip, tmp_path / "a"))
    assert (len(video), video.size, video.rate) == (10, (64, 48), 30)
    assert (len(folder), folder.size) == (10, (64, 48))
    assert video.names[3] == "000003"
    assert folder.names == [f"f{i + 1}" for i in range(10)]  # f10 is the last
    for frames in (video, folder):
        assert same(frames.read(), clip.frames)
        assert same(frames.read(3, 8), clip.frames[3:8])
        assert list(frames.read(4, 4)) == []


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_backwards_in_chunks(chunk, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("pst.propagate.sequence._CHUNK", chunk * 64 * 48 * 3)
    for frames in (open_frames(write_video(clip, tmp_path / "a.mkv")), open_frames(write_folder(clip, tmp_path / "a"))):
        assert same(frames.read_back(2, 9), clip.frames[2:9][::-1])


@pytest.mark.parametrize(
    ("ending", "codec", "options"),
    [
        ("mp4", "libx264", {"bf": "3", "g": "5"}),
        ("mp4", "libx264", {"bf": "2", "g": "6", "x264-params": "open-gop=1"}),
        ("avi", "mpeg4", {"bf": "2", "g": "4"}),
        ("mov", "mpeg4", {"g": "1"}),
        ("webm", "libvpx-vp9", {"g": "5"}),
    ],
)
def test_any_part_of_any_video_is_what_reading_it_all_gives(ending, codec, options, tmp_path):
    path = write_video(moving(24), tmp_path / f"a.{ending}", codec=codec, options=options)
    frames = open_frames(path)
    whole = list(frames.read())
    assert len(whole) == len(frames) == 24
    for start in range(24):
        assert same(frames.read(start, start + 2), whole[start : start + 2])
    assert same(frames.read_back(0, 24), whole[::-1])


def test_a_variable_frame_rate(clip, tmp_path):
    ticks = [0, 1, 2, 5, 6, 7, 12, 13, 20, 30]
    frames = open_frames(write_video(clip, tmp_path / "a.mkv", ticks=ticks))
    assert [round(float(s) * 30) for s in frames.seconds] == ticks
    assert same(frames.read(4, 7), clip.frames[4:7])
    assert same(frames.read_back(0, 10), clip.frames[::-1])


def test_a_turned_video_is_upright(clip, tmp_path):
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write turned videos")
    frames = open_frames(write_video(clip, tmp_path / "a.mp4", turned=90))
    assert frames.size == (48, 64)
    assert same(frames.read(), [np.rot90(frame) for frame in clip.frames])


def test_odd_sizes(tmp_path):
    clip = moving(4, size=(51, 37))
    frames = open_frames(write_video(clip, tmp_path / "a.mp4"))
    assert frames.size == (51, 37)
    assert same(frames.read(), clip.frames)


def test_frames_by_number_or_name(clip, tmp_path):
    frames = open_frames(write_folder(clip, tmp_path / "a", [f"{i:05d}" for i in range(1, 11)]))
    assert (frames.index("00001"), frames.index("00010"), frames.index("3")) == (0, 9, 3)
    with pytest.raises(ValueError, match=says("frame '10' … 0 to 9")):
        frames.index("10")


def test_hidden_files_and_others_are_left_out(clip, tmp_path):
    folder = write_folder(clip, tmp_path / "a")
    for name in ("._f1.png", ".hidden.jpg", "notes.txt", "Thumbs.db"):
        (folder / name).write_bytes(b"x")
    assert len(open_frames(folder)) == 10


def test_names_that_are_no_text(tmp_path):
    folder = write_folder(moving(2), tmp_path / "a\x1b[31m", ["<b>\n", "\x1b[2J"])
    assert sorted(open_frames(folder).names) == ["\x1b[2J", "<b>\n"]


def png_bomb(path: Path) -> Path:
    """A small file that claims 30,000 × 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (30_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return path


def missing(path: Path) -> Path:
    return path / "none.mp4"


def empty_folder(path: Path) -> Path:
    return path


def other_file(path: Path) -> Path:
    (path / "a.txt").write_text("hello")
    return path / "a.txt"


def text(path: Path) -> Path:
    (path / "a.mp4").write_text("hello " * 1000)
    return path / "a.mp4"


def playlist(path: Path) -> Path:
    """A playlist that names another file, under the name of a video."""
    write_video(moving(2), path / "other.mp4")
    (path / "a.mp4").write_text(f"ffconcat version 1.0\nfile {path / 'other.mp4'}\n")
    return path / "a.mp4"


def stub(path: Path) -> Path:
    """Without its index, which is at the end."""
    whole = write_video(moving(), path / "whole.mp4").read_bytes()
    (path / "a.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    return path / "a.mp4"


def sound(path: Path) -> Path:
    with av.open(str(path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path / "a.mp4"


def two_sizes(path: Path) -> Path:
    folder = write_folder(moving(3, size=(51, 37)), path / "a")
    Image.fromarray(picture(0)).save(folder / "f2.png")
    return folder


def one_name(path: Path) -> Path:
    folder = write_folder(moving(2), path / "a")
    Image.fromarray(picture(0)).save(folder / "F1.jpg")
    return folder


def bomb(path: Path) -> Path:
    folder = write_folder(moving(2), path / "a")
    png_bomb(folder / "f2.png")
    return folder


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (missing, "no video or folder … none.mp4"),
        (empty_folder, "no frames in … expected images"),
        (other_file, "a.txt is not a video … .mp4"),
        (text, "a.mp4 is not a video that can be read"),
        (playlist, "a.mp4 is not a video that can be read"),
        (stub, "a.mp4 is not a video that can be read"),
        (sound, "a.mp4 holds no video"),
        (two_sizes, "f2.png is 64×48 … 51×37 … one size"),
        (one_name, "of one name"),
        (bomb, "f2.png cannot be decoded … pixels"),
    ],
)
def test_what_is_no_clip_is_refused_in_one_sentence(make, parts, tmp_path):
    with pytest.raises((OSError, ValueError), match=says(parts)) as caught:
        open_frames(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_video_that_is_cut_off_says_after_how_many_frames(clip, tmp_path):
    whole = write_video(clip, tmp_path / "whole.mp4", faststart=True).read_bytes()
    path = tmp_path / "a.mp4"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(OSError, match=r"a\.mp4 .* after \d frames"):
        open_frames(path)


@pytest.mark.parametrize("left", [0.3, 0.6, 0.97, 0.9999])
def test_a_matroska_that_is_cut_off_is_no_shorter_clip(left, clip, tmp_path):
    whole = write_video(clip, tmp_path / "whole.mkv").read_bytes()
    path = tmp_path / "a.mkv"
    path.write_bytes(whole[: int(len(whole) * left)])
    with pytest.raises(OSError, match=says("a.mkv is cut off … bytes are missing at its end")):
        open_frames(path)
    path.write_bytes(whole)
    assert len(open_frames(path)) == 10


def test_a_damaged_frame_is_named(tmp_path):
    path = write_video(moving(), tmp_path / "a.mp4", codec="mpeg4", options={"g": "1"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    position, size = packets[6]
    content[position : position + size] = bytes(size)
    path.write_bytes(content)
    frames = open_frames(path)
    assert len(list(frames.read(0, 6))) == 6
    with pytest.raises(OSError, match=says("frame 6 of … a.mp4 cannot be decoded")):
        list(frames.read())


def test_an_image_that_cannot_be_decoded_is_named(clip, tmp_path):
    folder = write_folder(clip, tmp_path / "a")
    content = (folder / "f4.png").read_bytes()
    (folder / "f4.png").write_bytes(content[: len(content) // 2])
    frames = open_frames(folder)  # its header is whole
    with pytest.raises(OSError, match=says("f4.png cannot be decoded")):
        list(frames.read())


def test_frames_that_change_their_size_while_they_are_read(tmp_path):
    folder = write_folder(moving(3), tmp_path / "a")
    frames = open_frames(folder)
    Image.fromarray(picture(0, (20, 20))).save(folder / "f2.png")
    with pytest.raises(ValueError, match=says("f2.png is 20×20 … 64×48")):
        list(frames.read())


def test_a_video_without_pyav_names_the_extra(clip, tmp_path):
    path = write_video(clip, tmp_path / "a.mp4")
    folder = write_folder(Clip(*(part[:2] for part in clip)), tmp_path / "a")
    code = (
        "import sys; sys.modules['av'] = None\n"
        "import pst.propagate, pst.propagate.clip\n"
        "from pst.propagate.frames import open_frames\n"
        f"print(len(open_frames({str(folder)!r})))\n"
        f"try: open_frames({str(path)!r})\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, error = done.stdout.splitlines()
    assert count == "2"
    assert "pyramid-sparse-transformer[propagate]" in error
