"""Tables and plots from result files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.study import intervals
from lab.study.bootstrap import pack
from lab.study.grid import Cell, load_study
from lab.study.result_files import describe
from lab.study.studies_page import write_report
from lab.study.tables import group

ROOT = Path(__file__).parents[3]
STUDY = """
runner: ultralytics
seeds: [0, 1, 2]
data: {a: {path: a.yaml, train: {imgsz: 64}}}
models: {pan: {yaml: pan.yaml}, pst: {yaml: pst.yaml, evaluations: fine}}
recipes: {plain: {}}
evaluations: {fine: [{k: 0}, {k: [4, 8, all], fusion: [gate, refine]}, {k: [0, 8], imgsz: 128}]}
cells:
  - {data: a, model: [pst, pan], recipe: plain}
comparisons:
  - {title: Methods, kind: methods, reference: pan, rows: [pan, pst, "pst:k8-refine", pst/missing]}
  - {title: Fine, kind: fine, model: pst}
"""
BASE = {"pan": 0.40, "pst": 0.42}
GAIN = {"k8-refine": 0.01, "k4-gate": -0.001}  # in every seed


def result(cell: Cell) -> dict[str, Any]:
    """A result whose replicates differ between images and seeds, but not in a variant's gain."""
    rng = np.random.default_rng(5)
    base = BASE[cell.model] + 0.002 * (cell.seed - 1)
    noise = rng.normal(0, 0.01, 200)
    rows, replicates = {}, []
    for v in cell.variants:
        value = round(base + GAIN.get(v.name, 0.0), 5)
        rows[v.name] = {"value": value, "ap50": 0.7, "small": 0.1, "medium": 0.2, "large": 0.3, "ms": 5.0 + cell.seed}
        replicates.append(torch.from_numpy((value + noise).round(5)))
    return {
        **describe(cell),
        "parameters": 2_600_000,
        "gflops": {v.name: 1.65 for v in cell.variants},
        "imgsz": 64,
        "metric": "mAP50-95",
        "training": {"seconds": 100.0 + cell.seed, "loss": [2.0, 1.0], "peak_memory_mb": 900.0, "resumed_at_epoch": 0},
        "images": 72,
        "evaluations": rows,
        "replicates": pack(replicates),
    }


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    """The study, and a folder of the results of all its cells."""
    path, results = tmp_path / "demo.yaml", tmp_path / "results"
    path.write_text(STUDY)
    results.mkdir()
    for cell in load_study(path).cells:
        (results / f"{cell.id}.json").write_text(json.dumps(result(cell)))
    return path, results


def test_the_report_has_the_figures_of_the_results(made, tmp_path):
    pytest.importorskip("matplotlib")
    study, results = made
    written = write_report([study], results=results, out=tmp_path / "docs")
    text = (tmp_path / "docs/studies.md").read_text()
    rows = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    }
    assert rows["pan"] == ["40.00 ± 0.20", "3", "–", "2,600,000", "1.650", "6.00", "101", "900"]
    assert rows["pst"][:2] == ["42.00 ± 0.20", "3"]
    assert rows["pst"][2].startswith("+2.00 [+1.")
    assert rows["pst"][2].endswith("]\\*")
    assert rows["pst:k8-refine"][0] == "43.00 ± 0.20"
    assert "pst/missing" not in text
    assert "| way | k = 4 | k = 8 | k = M |" in text
    assert rows["refine"] == ["", "+0.00 ± 0.00", "+0.00 ± 0.00", "+0.00 ± 0.00"][1:]  # the last table: object sizes
    assert "| refine | +0.00 [+0.00, +0.00] | +1.00 [+1.00, +1.00]\\* | +0.00 [+0.00, +0.00] |" in text
    assert "| gate | -0.10 [-0.10, -0.10]\\* | +0.00 [+0.00, +0.00] | +0.00 [+0.00, +0.00] |" in text
    assert "a at 128 px" in text
    pictures = [p for p in written if p.suffix == ".png"]
    assert len(pictures) == 2
    assert all(p.read_bytes().startswith(b"\x89PNG") and f"assets/study/{p.name}" in text for p in pictures)
    html = (tmp_path / "docs/studies.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "43.00 ± 0.20" in html


def test_prose_around_the_markers_stays(made, tmp_path):
    pytest.importorskip("matplotlib")
    study, results = made
    out = tmp_path / "docs"
    out.mkdir()
    page = out / "studies.md"
    page.write_text("# Mine\n\nbefore\n\n<!-- study demo begin -->\nold\n<!-- study demo end -->\n\nafter\n")
    write_report([study], results=results, out=out)
    first = page.read_text()
    assert first.startswith("# Mine\n\nbefore\n")
    assert first.endswith("\n\nafter\n")
    assert "old" not in first
    write_report([study], results=results, out=out)
    assert page.read_text() == first


def test_latency_measured_apart_takes_the_cells_place_and_names_the_processor(made, tmp_path):
    pytest.importorskip("matplotlib")
    study, results = made
    times = {"k0": 3.25, "k8-refine": 4.0}
    record = {
        "latency_of": "demo", "device": "cpu", "batch": 1, "ms_per_image": {"64": {"pst": times}},
        "hardware": {"cpu": "Some Processor", "gpus": []},
    }  # fmt: skip
    (results / "latency-demo-cpu-b1.json").write_text(json.dumps(record))
    write_report([study], results=results, out=tmp_path / "docs")
    lines = (tmp_path / "docs/studies.md").read_text().splitlines()
    assert "| 3.25 |" in next(line for line in lines if line.startswith("| pst |"))
    assert any("ms per image (Some Processor, batch 1)" in line for line in lines)


def test_a_page_of_another_program_is_not_replaced(made, tmp_path):
    pytest.importorskip("matplotlib")
    study, results = made
    out = tmp_path / "docs"
    for _ in range(2):
        write_report([study], results=results, out=out)
    (out / "studies.html").write_text("theirs")
    with pytest.raises(FileExistsError, match=r"studies\.html is not of an earlier run"):
        write_report([study], results=results, out=out)
    assert (out / "studies.html").read_text() == "theirs"


def test_a_result_of_other_settings_is_refused(made, tmp_path):
    pytest.importorskip("matplotlib")
    study, results = made
    study.write_text(STUDY.replace("imgsz: 64", "imgsz: 96"))
    with pytest.raises(ValueError, match=r"other settings or model files than demo\.yaml has"):
        write_report([study], results=results, out=tmp_path / "docs")


def test_a_result_of_another_model_file_is_refused(made, tmp_path):
    pytest.importorskip("matplotlib")
    study, results = made
    (tmp_path / "pan.yaml").write_text("rows: [1]\n")  # results made without a file say nothing of one
    write_report([study], results=results, out=tmp_path / "docs")
    path = results / "a-pan-plain-1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_digest": "of another"}))
    with pytest.raises(ValueError, match=r"\['a-pan-plain-1'\] were made with other settings or model files"):
        write_report([study], results=results, out=tmp_path / "docs")


def test_gains_by_layer_are_rows_of_the_fine_tables(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("lab.study.plots.accuracy_against_cost", lambda *_: None)
    monkeypatch.setitem(GAIN, "k8,0-refine", 0.02)
    path, results = tmp_path / "demo.yaml", tmp_path / "results"
    path.write_text(STUDY.replace("k: [4, 8, all]", "k: [4, [4, 0], [0, 4], [8, 0], [4, 8]]"))
    results.mkdir()
    for cell in load_study(path).cells:
        layers = {"layers": ["row.11", "row.14"]} if cell.model == "pst" else {}
        (results / f"{cell.id}.json").write_text(json.dumps({**result(cell), **layers}))
    write_report([path], results=results, out=tmp_path / "docs")
    text = (tmp_path / "docs/studies.md").read_text()
    none, two = "+0.00 [+0.00, +0.00]", "+2.00 [+2.00, +2.00]\\*"
    assert "In brackets, k of each attention layer: row.11, row.14." in text
    assert "| way | k = 4 | k = 4,8 | k = 8 |" in text
    assert f"| refine | {none} | {none} |  |" in text
    assert f"| refine (k, 0) | {none} |  | {two} |" in text
    assert f"| refine (0, k) | {none} |  |  |" in text
    by_size = text[text.index("by object size") :]
    assert "| refine (k, 0) |" in by_size
    assert "| refine (0, k) |" not in by_size  # has no k = 8


def test_a_page_without_markers_and_a_folder_without_results_are_refused(made, tmp_path):
    pytest.importorskip("matplotlib")
    study, results = made
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/studies.md").write_text("# No markers\n")
    with pytest.raises(ValueError, match="must hold the lines <!-- study demo begin -->"):
        write_report([study], results=results, out=tmp_path / "docs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no results .*python -m lab study run"):
        write_report([study], results=tmp_path / "empty", out=tmp_path / "docs")


def test_an_interval_is_paired(made):
    """Noise that all variants share falls out of a gain, and stays in a figure's own spread."""
    study, _ = made
    seeds = [result(cell) for cell in load_study(study).cells if cell.model == "pst"]
    gain = intervals.gain(seeds, "k8-refine")
    assert gain.mean == pytest.approx(0.01)
    assert (gain.low, gain.high) == (pytest.approx(0.01), pytest.approx(0.01))
    assert gain.excludes_zero
    assert not intervals.gain(seeds, "k8-gate").excludes_zero


def test_a_difference_of_trainings_has_the_spread_of_their_seeds(made):
    study, _ = made
    cells = load_study(study).cells
    own, other = ([result(c) for c in cells if c.model == model] for model in ("pst", "pan"))
    estimate = intervals.difference(own, "k0", other, "k0")
    assert estimate.mean == pytest.approx(0.02)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0.016 <= estimate.low < 0.0185  # means of three of {-0.002, 0, 0.002}: at most 0.004 from it
    assert 0.0215 < estimate.high <= 0.024


def test_a_comparison_may_name_its_data(made, tmp_path, monkeypatch):
    study, results = made
    for plot in ("accuracy_against_cost", "accuracy_against_k"):
        monkeypatch.setattr(f"lab.study.plots.{plot}", lambda *_: None)
    for data, titles in (("a", 1), ("[a]", 1), ("b", 0)):
        study.write_text(STUDY.replace("{title: Methods,", f"{{title: Methods, data: {data},"))
        write_report([study], results=results, out=tmp_path / "docs")
        text = (tmp_path / "docs/studies.md").read_text()
        assert text.count("**Methods: a**") == titles
        assert "<summary>Fine: pst, recipe plain, a</summary>" in text


def test_several_studies_share_pictures(made, tmp_path):
    pytest.importorskip("matplotlib")
    from lab.study.overview import lines

    study, results = made
    (tmp_path / "other.yaml").write_text(STUDY.replace("data: {a:", "data: {b:").replace("data: a,", "data: b,"))
    for cell in load_study(tmp_path / "other.yaml").cells:
        (results / f"{cell.id}.json").write_text(json.dumps(result(cell)))
    write_report([study, tmp_path / "other.yaml"], results=results, out=tmp_path / "docs")
    for picture in ("overview-methods.png", "overview-fine.png"):
        assert (tmp_path / "docs/assets/study" / picture).read_bytes().startswith(b"\x89PNG")
        assert f"](assets/study/{picture})" in (tmp_path / "docs/studies.md").read_text()

    def shown(kind: str, **extra: Any) -> dict[str, list[float]]:
        loaded = load_study(study)
        comparisons = tuple({**c, **extra} for c in loaded.comparisons)
        grouped = group(loaded, [{**result(cell), "latency": {}} for cell in loaded.cells])
        found = lines([(replace(loaded, comparisons=comparisons), grouped)], kind)
        return {line.name: [round(estimate.mean, 5) for estimate, _ in line.marks] for line in found}

    assert shown("methods") == {"demo: a": [], "pst − pan (3)": [0.02]}  # not pst:k8-refine
    assert shown("fine") == {"demo: a": [], "pst, plain, k = 8 (3)": [0.01, 0.0]}  # refine, gate
    assert shown("fine", overview=[]) == {}


def test_one_seed_has_no_standard_deviation(made):
    study, _ = made
    seeds = [result(cell) for cell in load_study(study).cells if cell.model == "pst"][:1]
    estimate = intervals.value(seeds, "k0")
    assert (estimate.n, estimate.sd) == (1, None)


def test_the_studies_page_has_the_figures_of_the_committed_results(tmp_path, monkeypatch):
    """After new results: `python -m lab study report lab/studies/*.yaml --results lab/results/study --out docs`."""
    page = ROOT / "docs" / "studies.md"
    (tmp_path / "studies.md").write_bytes(page.read_bytes())
    for plot in ("accuracy_against_cost", "accuracy_against_k"):  # they take ten seconds
        monkeypatch.setattr(f"lab.study.plots.{plot}", lambda *_: None)
    studies = sorted((ROOT / "lab" / "studies").glob("*.yaml"))
    write_report(studies, results=ROOT / "lab" / "results" / "study", out=tmp_path)
    made, committed = (
        [line for line in path.read_text().splitlines() if line and not line.startswith("![")]
        for path in (tmp_path / "studies.md", page)
    )
    assert made == committed
