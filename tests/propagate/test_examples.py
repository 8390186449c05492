"""The examples run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pst.propagate.frames import open_frames
from tiny_clips import moving, write_folder, write_mask, write_video

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *argv: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, argv)], env=env, capture_output=True, text=True, check=True
    )


def test_the_live_loop_on_a_file(tmp_path):
    clip = moving(4, size=(65, 49))
    source = write_video(clip, tmp_path / "clip.mp4")
    mask = write_mask(clip.masks[0], tmp_path / "first.png")
    done = run("live_loop.py", source, mask, "--size", 96, "--out", tmp_path / "live.mp4")
    assert "4 frames" in done.stdout
    shown = open_frames(tmp_path / "live.mp4")
    assert (len(shown), shown.size) == (4, (64, 48))


def test_many_clips_on_ray(tmp_path):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not a dependency: pip install 'ray[data]' to run this")
    for i in range(2):
        clip = moving(3, seed=i)
        write_folder(clip, tmp_path / f"clips/{i}")
        write_mask(clip.masks[0], tmp_path / f"masks/{i}/f1.png")
    run("propagate_ray.py", tmp_path / "clips", tmp_path / "masks", tmp_path / "out", "--workers", 2, "--size", 96)
    assert len(list((tmp_path / "out").glob("*/masks/f3.png"))) == 2
