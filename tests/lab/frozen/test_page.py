"""The page says what the results say."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lab.__main__ import main
from lab.frozen import smp, tables
from lab.frozen.command import EPOCHS, RESULTS, SETS
from lab.frozen.page import PAGE, PARTS, marks, parts, write_report
from lab.frozen.run import Job, cells
from lab.frozen.schedule import Recipe
from lab.study.intervals import Estimate, difference, value

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / RESULTS


@pytest.fixture(scope="module")
def results(drawn, weights, tmp_path_factory) -> Path:
    """Results of drawn pictures; those of a second row are the first's, two points better, seed by seed."""
    out = tmp_path_factory.mktemp("results")
    options = ["--epochs", "1", "--batch", "3", "--network", "test_efficientnet", "--weights", str(weights)]
    assert main(["frozen", "run", "--camvid", str(drawn), "--out", str(out), *options, "--row", "pst-attention"]) == 0
    for path in sorted(out.iterdir()):
        found = json.loads(path.read_text())
        better = copy.deepcopy(found)
        better["cell"]["row"] = "fpn"
        for split in ("val", "test"):
            better[split]["evaluations"]["k0"]["value"] += 0.02
        (out / path.name.replace("pst-attention", "fpn")).write_text(json.dumps(better))
    return out


def test_the_table_has_the_figures_of_the_files(results):
    found = tables.load(results, "camvid")
    assert {name: len(each) for name, each in found.items()} == {"pst-attention": 5, "fpn": 5}
    table = tables.segmentation(found, "P3", {"cpu": {"fpn": 1.234}})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [line[0] for line in lines[2:]] == ["FPN", "PST: attention"]  # the best on val first
    own = [r["test"] for r in found["fpn"]]
    mean = value(own, "k0").mean
    assert lines[2][2].startswith(f"{100 * mean:.1f} ±")
    assert lines[0][3:5] == ["Δ val", "Δ test"]
    for column, split in ((3, "val"), (4, "test")):
        ours, theirs = ([r[split] for r in found[name]] for name in ("fpn", "pst-attention"))
        assert lines[2][column] == tables.signed(difference(ours, "k0", theirs, "k0"))
        assert "+2.00" in lines[2][column]
    assert lines[2][-1] == "1.23"
    assert lines[3][3] == lines[3][4] == lines[3][-1] == tables.NONE


def test_without_the_first_row_of_its_group_the_first_there_is_compared_with(results):
    table = tables.segmentation({"fpn": tables.load(results, "camvid")["fpn"]}, "P3", {})
    assert table.count(f"| {tables.NONE} | {tables.NONE} |") == 1


def test_a_commit_with_changed_files_beside_it_is_marked(results):
    record = tables.load(results, "camvid")["fpn"][0]
    clean, dirty = ({**record, "commit": "0123456789" + tail} for tail in ("", "-dirty"))
    lines = tables.made([{"fpn": [clean, dirty]}]).splitlines()
    assert "| 0123456, 0123456+ |" in lines[2]


def test_fine_attention_has_a_column_for_each_rule(results):
    lines = tables.fine(tables.load(results, "camvid"), "test").splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[3:-1]] == ["mean", "window", "nearest", "random"]
    assert len(lines) == 3  # the FPN has no attention


def test_differences_are_bold_where_the_interval_excludes_zero():
    assert tables.signed(Estimate(-0.01, None, 5, -0.02, -0.005)) == "**−1.00 [−2.00, −0.50]**"
    assert tables.signed(Estimate(0.01, None, 5, -0.02, 0.03)) == "+1.00 [−2.00, 3.00]"


def test_the_page_is_made_of_the_results_and_says_what_is_not_run(results, tmp_path):
    shutil.copy(ROOT / "docs" / PAGE, tmp_path / PAGE)
    write_report(results, tmp_path)
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert tables.segmentation(tables.load(results, "camvid"), "P3", {}) in page
    assert parts(results)["voc"] == "Not run yet."
    assert set(parts(results)) == set(PARTS)


def test_the_picture_has_a_panel_for_each_device(results, tmp_path):
    shutil.copy(ROOT / "docs" / PAGE, tmp_path / PAGE)
    assert write_report(results, tmp_path) == [tmp_path / PAGE]  # no latency, no picture
    measured = shutil.copytree(results, tmp_path / "results")
    widths = []
    for device in ("cpu", "cuda"):
        record = {"device": device, "milliseconds": {"1": {"fpn": 1.0, "pst-attention": 2.0}}}
        (measured / f"latency-{device}.json").write_text(json.dumps(record))
        page, picture = write_report(measured, tmp_path)
        assert page == tmp_path / PAGE
        with Image.open(picture) as image:
            widths.append(image.width)
    assert widths[1] == 2 * widths[0]


def test_a_page_without_markers_and_no_results_are_errors(results, tmp_path):
    (tmp_path / PAGE).write_text("# Necks\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(marks("p3")[0])):
        write_report(results, tmp_path)
    with pytest.raises(FileNotFoundError, match="frozen run"):
        write_report(tmp_path, ROOT / "docs")


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no results of the study are committed yet")
def test_the_committed_page_is_what_the_committed_results_give(tmp_path):
    shutil.copy(ROOT / "docs" / PAGE, tmp_path / PAGE)
    write_report(COMMITTED, tmp_path)
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == (ROOT / "docs" / PAGE).read_text(encoding="utf-8")


def test_the_commands_of_the_page_leave_no_other_cells_to_run(monkeypatch):
    monkeypatch.setattr(smp, "is_installed", lambda: True)
    sets = {name: Path(name) for name in SETS}
    jobs = [Job(sets, COMMITTED, "cpu", {}, trained=trained) for trained in (False, True)]
    wanted = {cell.name for job in jobs for cell in cells(job, None, None)}
    there = {path.stem for path in COMMITTED.glob("*.json") if not path.name.startswith("latency-")}
    assert there == wanted


def test_every_committed_cell_was_made_by_the_recipe_of_the_command():
    paths = [path for path in COMMITTED.glob("*.json") if not path.name.startswith("latency-")]
    assert len(paths) > 250
    for path in paths:
        found = json.loads(path.read_text(encoding="utf-8"))
        settings, recipe = found["settings"], Recipe(EPOCHS[found["cell"]["part"]]).plain()
        assert {key: settings[key] for key in recipe} == recipe, path
        assert settings["network"] == "tf_efficientnet_lite0", path
        assert settings["limit"] is None, path
