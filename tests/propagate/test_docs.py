"""docs/propagate.md: its snippets run, its commands parse, and it names what there is."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pst.cli import build_parser
from pst.io.image_file import read_indices
from pst.propagate import Propagator, Setting
from pst.propagate.video import VIDEOS
from tiny_clips import moving, write_mask, write_video

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/propagate.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, code in SNIPPETS if kind == "bash" for line in code.splitlines()]


@pytest.mark.parametrize("code", [code for kind, code in SNIPPETS if kind == "python"])
def test_snippets_run(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clip = moving(4)
    write_video(clip, tmp_path / "clip.mp4")
    write_mask(clip.masks[0], tmp_path / "first.png")
    Image.fromarray(clip.frames[0]).save(tmp_path / "frame.png")
    names = {"frames": clip.frames[:2], "mask": clip.masks[0]}
    exec(compile(code.replace("size=480", "size=96"), "propagate.md", "exec"), names)
    for printed in capsys.readouterr().out.splitlines():
        assert f"# {printed}" in code
    if "ImageDraw" in code:
        assert set(np.unique(read_indices(tmp_path / "first.png"))) <= {0, 1}
    if "masks" in names:
        assert [m.shape for m in names["masks"]] == [(48, 64)]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    program, *argv = shlex.split(command)
    assert program == "pst"
    assert callable(build_parser().parse_args(argv).run)


def test_it_names_what_there_is():
    assert {f"`{ending}`" for ending in VIDEOS} <= set(re.findall(r"`\.\w+`", DOCUMENT))
    for option in re.findall(r"^\| `--(\w+)", DOCUMENT, re.MULTILINE):
        assert option in {f.name for f in fields(Setting)} | {"features", "device"}
    for name in ("confidence", "add", "step"):
        assert hasattr(Propagator, name)
    for path in re.findall(r"`(examples/\w+\.py)`", DOCUMENT):
        assert (ROOT / path).is_file()
