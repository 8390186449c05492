"""The committed page says what the committed results say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from lab.two_maps import run_labels, tables
from lab.two_maps.page import ASSETS, PAGE, marks, parts, write_report
from lab.two_maps.resample import Estimate

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "lab" / "results" / "two-maps"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page made again from the committed results, in a folder of its own."""
    out = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "docs" / PAGE, out / PAGE)
    write_report(RESULTS, out)
    return out


def test_the_committed_page_is_what_the_committed_results_give(made):
    assert (made / PAGE).read_text(encoding="utf-8") == (ROOT / "docs" / PAGE).read_text(encoding="utf-8")


def test_the_page_shows_each_picture_that_is_made_and_no_other(made):
    shown = re.findall(r"\]\(assets/(two-maps[^)]+)\)", (made / PAGE).read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.name for path in (made / ASSETS).iterdir())
    assert all((ROOT / "docs" / ASSETS / name).is_file() for name in shown)


def test_every_result_says_where_it_was_made():
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert set(content) >= {"settings", "hardware", "versions", "commit", "date", "records"}, path.name


def test_no_cell_is_long(made):
    lines = [line for line in (made / PAGE).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert all(len(cell.split()) <= 20 for line in lines for cell in line.split("|"))


def test_a_page_without_a_marker_is_refused(tmp_path):
    (tmp_path / PAGE).write_text("# Two maps\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(marks("summary")[0])):
        write_report(RESULTS, tmp_path)


def test_no_results_are_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no {run_labels.file('efficientnet-lite0')} in .*two-maps run"):
        parts(tmp_path)


def test_an_interval_is_written_with_a_true_minus():
    assert tables.interval(Estimate(-0.26, -1, 0.5), sign=True) == "−0.3 [−1.0, 0.5]"
    assert tables.interval(Estimate(-0.01, -0.02, 0.0), sign=True) == "+0.0 [0.0, 0.0]"
    assert tables.interval(Estimate(61.24, 60, 62.5)) == "61.2 [60.0, 62.5]"
    assert tables.markdown(["row", "a"], [["x", "1"]]) == "| row | a |\n| --- | ---: |\n| x | 1 |"
