"""Many clips: which they are, one after the other or several at a time, and what fails."""

from __future__ import annotations

import shutil

import pytest
import torch

from messages import says
from pst.propagate.many import find_clips, propagate_clips
from pst.propagate.network import Network
from tiny_clips import QUICK, Stopping, moving, patches, read_back, write_folder, write_mask, write_video


@pytest.fixture
def clips(tmp_path):
    """Two videos and two folders of frames, the layout of DAVIS; one of the videos is text, one folder has no mask."""
    for i, name in enumerate(["a.mp4", "broken.mp4"]):
        write_video(moving(4, seed=i), tmp_path / "clips" / name)
    for i, name in enumerate(["c2", "c10", "bare"]):
        clip = moving(4, seed=i)
        write_folder(clip, tmp_path / "clips" / name, [f"{n:05d}" for n in range(4)])
    (tmp_path / "clips/broken.mp4").write_text("hello")
    (tmp_path / "clips/empty").mkdir()
    (tmp_path / "clips/.hidden").mkdir()
    (tmp_path / "clips/notes.txt").write_text("hello")
    for name in ("a", "broken", "c2", "c10"):
        write_mask(moving(4).masks[0], tmp_path / "masks" / name / "00000.png")
    return tmp_path


def run(root, jobs=1, features=patches):
    options = {"jobs": jobs, "progress": False, "network": Network(features), **QUICK}
    return {o.name: o for o in propagate_clips(root / "clips", root / "masks", root / "out", **options)}


def test_clips_are_videos_and_folders_of_images(clips):
    assert list(find_clips(clips / "clips")) == ["a", "bare", "broken", "c2", "c10"]
    assert find_clips(clips / "clips/c2") == {}


def test_what_fails_is_named_and_the_others_go_on(clips):
    outcomes = run(clips)
    assert list(outcomes) == ["a", "bare", "broken", "c2", "c10"]
    assert "broken.mp4 is not a video" in str(outcomes.pop("broken").error)
    assert "no folder of masks" in str(outcomes.pop("bare").error)
    assert all((o.carried, o.error) == (4, None) for o in outcomes.values())
    for name, frame in (("a", "000003"), ("c2", "00003"), ("c10", "00003")):
        assert read_back(clips / "out" / name / "masks" / f"{frame}.png").shape == (48, 64)


def test_several_at_a_time_give_what_one_gives(clips):
    for name in ("bare", "c10"):
        shutil.rmtree(clips / "clips" / name)
    run(clips)
    (clips / "out").rename(clips / "one")
    outcomes = run(clips, 2)
    assert {name: o.carried for name, o in outcomes.items()} == {"a": 4, "broken": 0, "c2": 4}
    assert "broken.mp4 is not a video" in str(outcomes["broken"].error)
    for name in ("a", "c2"):
        for path in sorted((clips / "one" / name / "masks").iterdir()):
            assert path.read_bytes() == (clips / "out" / name / "masks" / path.name).read_bytes()


def test_what_is_done_is_skipped_and_what_is_repaired_is_done(clips):
    run(clips)
    write_video(moving(4), clips / "clips/broken.mp4")
    shutil.rmtree(clips / "clips/bare")
    outcomes = run(clips)
    assert {name: (o.carried, o.error) for name, o in outcomes.items()} == {
        "a": (0, None), "broken": (4, None), "c2": (0, None), "c10": (0, None)
    }  # fmt: skip


class Dying:
    def __call__(self, images):
        import os

        os._exit(9)


def test_a_process_that_is_killed_is_named(clips):
    for name in ("a.mp4", "bare", "c10"):
        path = clips / "clips" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    outcomes = run(clips, 2, Dying())
    assert set(outcomes) == {"broken", "c2"}
    assert "process was killed" in str(outcomes["c2"].error)
    assert "not a video" in str(outcomes["broken"].error)


def test_an_interruption_ends_it(clips):
    with pytest.raises(KeyboardInterrupt):
        run(clips, features=Stopping(2))


def test_what_is_no_folder_of_clips(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=says("none holds neither images nor videos")):
        find_clips(tmp_path / "none")
    folder = write_folder(moving(2), tmp_path / "both")
    write_video(moving(2), folder / "a.mp4")
    with pytest.raises(ValueError, match=says("both holds images and videos")):
        find_clips(folder)
    write_video(moving(2), tmp_path / "twins/a.mp4")
    write_folder(moving(2), tmp_path / "twins/a")
    with pytest.raises(ValueError, match=says("clips of one name")):
        find_clips(tmp_path / "twins")
    with pytest.raises(ValueError, match=says("one clip of images")):
        list(propagate_clips(write_folder(moving(2), tmp_path / "one"), tmp_path, tmp_path / "out"))
    write_video(moving(2), tmp_path / "good/a.mp4")
    with pytest.raises(FileNotFoundError, match=says("no folder of masks at … nowhere")):
        list(propagate_clips(tmp_path / "good", tmp_path / "nowhere", tmp_path / "out"))


def threads_of(_images):
    raise ValueError(f"{torch.get_num_threads()} threads")


def test_processes_share_the_threads(clips, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)  # of this process
    outcomes = run(clips, jobs=2, features=threads_of)
    assert {outcomes[name].error for name in ("a", "c2", "c10")} == {"3 threads"}
