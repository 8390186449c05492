"""The tool's own rows: counts by hand, a killed run that goes on, tables of made records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.two_maps import tool, tool_tables
from lab.two_maps.frames import CLASSES, Pair
from lab.two_maps.store import Store
from pst.propagate import UNKNOWN
from pst.propagate.network import Network


def colours(images: Tensor) -> Tensor:
    maps = F.avg_pool2d(images, 16)
    return torch.cat([maps, torch.full_like(maps[:, :1], 0.3)], 1)


def test_pixels_that_are_sure_are_counted():
    true = np.array([[0, 0, 1], [1, 2, UNKNOWN]], np.uint8)
    given = np.array([[0, 1, 1], [1, 1, 1]], np.uint8)
    confidence = np.array([[0.95, 0.2, 0.8], [0.4, 0.6, 0.99]], np.float32)
    found = {
        key: np.array(value).reshape(3, CLASSES)[:, :3].tolist()
        for key, value in tool.known(given, true, confidence).items()
    }
    assert found["sure-0.9"] == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]  # right, given, true
    assert found["sure-0.5"] == [[1, 1, 0], [1, 2, 0], [1, 1, 1]]
    assert found["sure-0.3"] == [[1, 2, 0], [1, 3, 0], [1, 2, 1]]


def test_a_pair_is_judged_by_the_later_frame(camvid: Path):
    pair = Pair("0016E5_07959", "0016E5_07965")  # of one background
    record = tool.evaluate(camvid, pair, colours)
    assert set(record) == {"true", "tool", *(f"sure-{t}" for t in tool.THRESHOLDS)}
    right, given = record["tool"][:CLASSES], record["tool"][CLASSES:]
    assert sum(given) == sum(record["true"])  # every labelled pixel is given a label
    assert right[2] > 0.5 * record["true"][2]  # the square


PARTS = (tool.Part("test", 1, 6),)


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / tool.FILE).read_text("utf-8"))


def test_a_killed_run_goes_on(camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {"parts": PARTS, "network": Network(colours)}
    tool.run(camvid, tmp_path / "whole", **options)
    evaluate, done = tool.evaluate, []

    def killed(*args: Any) -> dict[str, Any]:
        if done:
            raise KeyboardInterrupt
        done.append(args)
        return evaluate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(tool, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            tool.run(camvid, tmp_path / "again", **options)
    assert len(results(tmp_path / "again")["records"]) == 1
    tool.run(camvid, tmp_path / "again", **options)
    whole, again = results(tmp_path / "whole"), results(tmp_path / "again")
    assert whole["records"] == again["records"]
    assert whole["settings"] == again["settings"]
    assert len(whole["records"]) > 1


@pytest.mark.slow
def test_several_processes_give_what_one_gives(camvid: Path, tmp_path: Path):
    options = {"parts": PARTS, "network": Network(colours)}
    tool.run(camvid, tmp_path / "one", **options)
    tool.run(camvid, tmp_path / "two", jobs=2, **options)
    assert results(tmp_path / "one")["records"] == results(tmp_path / "two")["records"]


@pytest.mark.parametrize("place", [(tool, "WAVES"), (tool.borders, "MOVED"), (tool.frames, "SIZE")])
def test_results_of_other_constants_are_not_taken(place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = tool.settings(Network())
    Store(tmp_path / tool.FILE, before, whole=True).write()
    Store(tmp_path / tool.FILE, before, whole=True)
    module, name = place
    monkeypatch.setattr(module, name, (0.5, 0.25))
    with pytest.raises(ValueError, match="was made with another"):
        Store(tmp_path / tool.FILE, tool.settings(Network()), whole=True)


def test_results_of_a_version_that_knew_other_settings_are_not_taken(tmp_path: Path):
    wanted = tool.settings(Network())
    for name, others in {
        "waves": {k: v for k, v in wanted.items() if k != "waves"},
        "more": {**wanted, "more": 1},
    }.items():
        Store(tmp_path / f"{name}.json", others).write()
        with pytest.raises(ValueError, match=f"was made with another {name}"):
            Store(tmp_path / f"{name}.json", wanted, whole=True)


def test_tables_compare_the_pairs_that_both_have():
    def counts(right: int, wrong: int) -> list[int]:
        """Of classes with as many pixels each, where errors go to another one."""
        return [*[right] * CLASSES, *[right + wrong] * CLASSES]

    true = [100] * CLASSES
    sure = {f"sure-{t}": [*counts(45, 5), *[50] * CLASSES] for t in tool.THRESHOLDS}
    names = [f"val-1 0016E5_{7959 + 2 * i:05d} 0016E5_{7989 + 2 * i:05d}" for i in range(6)]
    tools = {name: {"true": true, "tool": counts(80, 20), **sure} for name in names}
    labels = {
        name: {"true": true, "flow": counts(60, 40), "copy": counts(50, 50), "window-8": counts(70, 30)}
        for name in names[:4]
    }
    table = tool_tables.against(tools, labels)
    assert "66.7" in table.splitlines()[-2]  # 80 of 120
    assert "+23.8" in table.splitlines()[-1]  # 66.7 − 42.9
    assert tool_tables.unknown(tools).splitlines()[-1].endswith("| 50.0 | 81.8 |")
