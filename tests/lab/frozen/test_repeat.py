"""One command makes the study: its files, its times and its page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import tiny_data
from lab.__main__ import main
from lab.frozen import latency, pack
from lab.frozen.command import SETS
from lab.frozen.page import PAGE
from lab.frozen.rows import ROWS
from messages import says

ROOT = Path(__file__).parents[3]


@pytest.fixture
def arguments(drawn, weights, tmp_path, monkeypatch) -> list[str]:
    pytest.importorskip("faster_coco_eval", reason="the metrics of boxes need it: the train extra")
    monkeypatch.setattr(latency, "ROWS", {"fpn": ROWS["fpn"]})
    monkeypatch.setattr(latency, "DETECTED", ("fpn",))
    monkeypatch.setattr(latency, "BATCHES", (1,))
    squares = tiny_data.yolo(tmp_path / "squares")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / PAGE, tmp_path / "docs" / PAGE)
    folders = ["--camvid", drawn, "--bccd", squares, "--voc", squares]
    places = ["--packed", tmp_path / "packed", "--out", tmp_path / "out", "--docs", tmp_path / "docs"]
    less = ["--row", "fpn", "--seeds", 1, "--epochs", 1, "--batch", 4, "--network", "test_efficientnet"]
    return ["frozen", "repeat", *map(str, [*folders, *places, *less, "--weights", weights, "--seconds", 1])]


def test_one_command_makes_the_files_and_the_page_and_then_has_no_cell_to_train(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    cells = {f"{part}-{trained}fpn-0.json" for part in SETS for trained in ("", "trained-")}
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == cells | {"latency-cpu.json"}
    assert "packed as jpeg" in json.loads((out / "voc-trained-fpn-0.json").read_text())["settings"]["data"]
    page = (tmp_path / "docs" / PAGE).read_text(encoding="utf-8")
    assert page != (ROOT / "docs" / PAGE).read_text(encoding="utf-8")
    assert "Not run yet." not in page.partition("## Boxes")[2]
    times = {path.name: path.stat().st_mtime_ns for path in (*out.iterdir(), *(tmp_path / "packed").iterdir())}
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("3 of 3 cells are there") == 2
    again = {path.name: path.stat().st_mtime_ns for path in (*out.iterdir(), *(tmp_path / "packed").iterdir())}
    assert {name for name in times if times[name] != again[name]} == {"latency-cpu.json"}


def test_a_page_that_is_not_there_is_told_before_anything_is_trained(arguments, tmp_path, capsys):
    (tmp_path / "docs" / PAGE).unlink()
    assert main(arguments) == 2
    assert re.search(says(f"no file … {PAGE}"), capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_pack_of_another_data_set_a_damaged_one_and_a_folder_that_is_not_there_are_told_first(
    arguments, tmp_path, capsys
):
    (tmp_path / "packed").mkdir()
    pack.pack("bccd", tmp_path / "squares", tmp_path / "packed" / "voc.zip")
    assert main(arguments) == 2
    assert re.search(says("voc.zip holds bccd … voc"), capsys.readouterr().err)
    (tmp_path / "packed" / "voc.zip").write_bytes(b"PK")
    assert main(arguments) == 2
    assert re.search(says("voc.zip … pack again"), capsys.readouterr().err)
    (tmp_path / "packed" / "voc.zip").unlink()
    arguments[arguments.index("--voc") + 1] = str(tmp_path / "nothing")
    assert main(arguments) == 2
    assert re.search(says("nothing … --voc"), capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "packed").iterdir()) == []


def test_a_page_without_a_marker_is_told_before_anything_is_trained(arguments, tmp_path, capsys):
    page = tmp_path / "docs" / PAGE
    page.write_text(page.read_text(encoding="utf-8").replace("<!-- frozen made end -->", ""), encoding="utf-8")
    assert main(arguments) == 2
    assert "frozen made end" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
