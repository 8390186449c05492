"""The tutorials run as a user runs them, on one thread, and docs/tutorials.md shows what stands in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs/tutorials.md").read_text(encoding="utf-8")
TUTORIALS = sorted(set(re.findall(r"examples/(\w+\.py)", PAGE)))
LIMIT = 60  # seconds of one processor's time


def run(name: str, *argv: object, blocked: tuple[str, ...] = ()) -> str:
    """Its output, in a process of its own where the packages ``blocked`` cannot be imported."""
    start = "import resource, runpy, sys\n"
    start += "".join(f"sys.modules[{package!r}] = None\n" for package in blocked)
    start += f"sys.path.insert(0, {str(EXAMPLES)!r})\n"
    start += f"runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')\n"
    start += "print('SECONDS', resource.getrusage(resource.RUSAGE_SELF).ru_utime)\n"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", start, *map(str, argv)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.rpartition("SECONDS ")[2]) < LIMIT
    return done.stdout


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image)


def percent(text: str, after: str) -> int:
    return int(re.findall(rf"{after} (\d+)%", text)[0])


@pytest.mark.slow
def test_a_neck_in_your_detector_finds_the_shapes(tmp_path):
    shown = run("neck_in_your_detector.py", "--out", tmp_path)
    assert percent(shown, "k = 0:") >= 70  # 91 where it was written; untrained it is 0
    assert read(tmp_path / "picture.png").shape[0] == 3 * 64


@pytest.mark.slow
def test_a_segmenter_learns_your_masks(tmp_path):
    shown = run("segment_your_masks.py", "--out", tmp_path)
    assert float(re.findall(r"'miou': ([\d.]+)", shown)[0]) >= 0.6  # all ground is 0.3
    assert read(tmp_path / "picture.png").shape[0] == 3 * 64


@pytest.mark.slow
def test_a_mask_goes_through_a_video(tmp_path):
    shown = run("propagate_video.py", "--out", tmp_path, "--frames", 6)
    assert percent(shown, "6 frames,") >= 80
    assert (tmp_path / "run/sheet.jpg").is_file()


@pytest.mark.slow
def test_an_export_runs_without_torch(tmp_path):
    run("export_model.py", "--out", tmp_path)
    model, image = tmp_path / "shapes.onnx", tmp_path / "image.png"
    run("run_without_torch.py", model, image, "--out", tmp_path / "mask.png", blocked=("torch", "pst"))
    pixels, colours = np.split(read(tmp_path / "mask.png"), 2, axis=1)
    assert (pixels == read(image)).all()
    assert {tuple(c) for c in colours.reshape(-1, 3).tolist()} <= {(0, 0, 0), (255, 225, 60), (60, 230, 130)}
    assert 0.01 < (colours.sum(-1) > 0).mean() < 0.5


def test_the_page_shows_what_the_tutorials_do():
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    code = "".join(unindented((EXAMPLES / name).read_text(encoding="utf-8")) for name in TUTORIALS)
    assert len(TUTORIALS) >= 5
    assert len(snippets) >= 4
    for snippet in snippets:
        assert unindented(snippet) in code, snippet


def unindented(code: str) -> str:
    return "".join(f"{line.strip()}\n" for line in code.splitlines() if line.strip())
