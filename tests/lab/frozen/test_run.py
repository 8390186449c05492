"""A cell on drawn pictures: it repeats, resumes, is packed, and refuses what does not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.__main__ import main
from lab.frozen import pack
from lab.frozen.run import Cell, Job, run_cell
from lab.frozen.schedule import Recipe
from lab.study.intervals import difference, value
from messages import says

RECIPE = ["--epochs", "1", "--batch", "3", "--network", "test_efficientnet"]


@pytest.fixture(scope="module")
def results(drawn, weights, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("results")
    assert run(drawn, weights, out, "--row", "pst-add", "--row", "laterals", "--seeds", "2") == 0
    return out


def run(data: Path, weights: Path, out: Path, *options: str) -> int:
    return main(
        ["frozen", "run", "--camvid", str(data), "--weights", str(weights), "--out", str(out), *RECIPE, *options]
    )


def read(out: Path, name: str) -> dict:
    return json.loads((out / f"camvid-{name}.json").read_text())


def test_a_cell_is_repeated_by_its_seed(results, drawn, weights, tmp_path):
    first, second = read(results, "pst-add-0"), read(results, "pst-add-1")
    assert run(drawn, weights, tmp_path, "--row", "pst-add", "--seeds", "1") == 0
    again = read(tmp_path, "pst-add-0")
    for key in ("cell", "settings", "widths", "options"):
        assert again[key] == first[key]
    assert again["loss"] == pytest.approx(first["loss"], abs=1e-4)
    assert again["test"]["evaluations"]["k0"]["value"] == pytest.approx(
        first["test"]["evaluations"]["k0"]["value"], abs=1e-3
    )
    assert second["loss"] != first["loss"]


def test_a_result_says_where_it_is_from_and_has_intervals(results):
    ours = [read(results, f"pst-add-{seed}")["test"] for seed in range(2)]
    theirs = [read(results, f"laterals-{seed}")["test"] for seed in range(2)]
    assert set(ours[0]["evaluations"]) == {"k0", "k8-mean", "k8-window", "k8-nearest", "k8-random"}
    assert set(theirs[0]["evaluations"]) == {"k0"}
    assert 0 < value(ours, "k0").mean < 1
    found = difference(ours, "k0", theirs, "k0")
    assert found.low is not None
    assert found.low <= found.mean <= found.high  # pyright: ignore[reportOperatorIssue]
    record = read(results, "pst-add-0")
    assert record["hardware"]["cores"] >= 1
    assert record["versions"]["torch"]
    assert record["settings"]["data"] == "folder, resized"


def test_finished_cells_are_kept_and_others_are_refused(results, drawn, weights, capsys):
    before = (results / "camvid-pst-add-0.json").stat().st_mtime_ns
    assert run(drawn, weights, results, "--row", "pst-add", "--seeds", "2") == 0
    assert "2 of 2 cells are there" in capsys.readouterr().out
    assert (results / "camvid-pst-add-0.json").stat().st_mtime_ns == before
    assert run(drawn, weights, results, "--row", "pst-add", "--seeds", "1", "--lr", "0.5") == 2
    assert "settings" in capsys.readouterr().err


def test_a_cell_of_another_device_is_kept(results, drawn, weights, tmp_path, capsys):
    record = json.loads((results / "camvid-pst-add-0.json").read_text(encoding="utf-8"))
    record["settings"]["device"] = "cuda"
    (tmp_path / "camvid-pst-add-0.json").write_text(json.dumps(record), encoding="utf-8")
    assert run(drawn, weights, tmp_path, "--row", "pst-add", "--seeds", "1") == 0
    assert "1 of 1 cells are there" in capsys.readouterr().out


def test_a_cell_that_another_run_has_finished_meanwhile_is_left_alone(results, drawn, tmp_path):
    before = (results / "camvid-pst-add-0.json").stat().st_mtime_ns
    no_weights = tmp_path / "none.safetensors"  # so training would fail
    job = Job({"camvid": drawn}, results, "cpu", {"camvid": Recipe(1, 3)}, no_weights, "test_efficientnet")
    run_cell(job, Cell("camvid", "pst-add", 0, trained=False))
    assert (results / "camvid-pst-add-0.json").stat().st_mtime_ns == before
    with pytest.raises(FileNotFoundError, match=says("none.safetensors")):
        run_cell(job, Cell("camvid", "pst-add", 2, trained=False))


def test_the_deadline_leaves_cells_for_the_next_run(drawn, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lab.frozen.command.time", SimpleNamespace(time=lambda: 0.0))
    assert run(drawn, weights, tmp_path, "--row", "laterals", "--seeds", "1", "--deadline", "1") == 0
    assert "1 cells are left" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_network_is_trained_as_well(drawn, weights, tmp_path):
    assert run(drawn, weights, tmp_path, "--row", "laterals", "--seeds", "1", "--trained") == 0
    found = read(tmp_path, "trained-laterals-0")
    assert found["cell"]["trained"] is True
    assert 0 < found["val"]["evaluations"]["k0"]["value"] < 1


@pytest.mark.slow
def test_several_processes_give_the_same(results, drawn, weights, tmp_path):
    assert run(drawn, weights, tmp_path, "--row", "pst-add", "--seeds", "2", "--jobs", "2") == 0
    for seed in range(2):
        assert read(tmp_path, f"pst-add-{seed}")["loss"] == pytest.approx(read(results, f"pst-add-{seed}")["loss"])


def test_unknown_rows_and_no_data_are_refused(drawn, weights, tmp_path, capsys):
    assert run(drawn, weights, tmp_path, "--row", "nothing") == 2
    assert "pst-attention" in capsys.readouterr().err
    assert main(["frozen", "run", "--out", str(tmp_path)]) == 2
    assert "--camvid" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- packed


def test_a_packed_set_has_the_same_masks_and_nearly_the_same_pictures(drawn, tmp_path):
    file = tmp_path / "camvid.zip"
    assert main(["frozen", "pack", "camvid", str(drawn), str(file)]) == 0
    packed, plain = pack.read("camvid", file), pack.read("camvid", drawn)
    for split, each in plain.items():
        assert packed[split].targets.equal(each.targets)
        assert (packed[split].images.float() - each.images.float()).abs().mean() < 8  # JPEG of noise
        assert each.images.shape[2:] == pack.SIZE
    assert "quality 95" in pack.describe(file)
    with pytest.raises(ValueError, match=says("holds camvid … bccd")):
        pack.read("bccd", file)


def test_missing_weights_and_a_rate_of_nothing_are_the_users_to_change(drawn, tmp_path, capsys):
    assert run(drawn, tmp_path / "none.safetensors", tmp_path, "--row", "laterals", "--seeds", "1") == 2
    assert "none.safetensors" in capsys.readouterr().err
    for rate in ("nan", "-1", "0", "inf", "fast"):
        with pytest.raises(SystemExit):
            run(drawn, tmp_path, tmp_path, "--lr", rate)
        assert re.search(says(f"--lr … > 0 … {rate}"), capsys.readouterr().err)


def test_a_cell_that_fails_for_what_was_given_is_no_bug(drawn, tmp_path, capsys):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    assert run(drawn, damaged, tmp_path / "out", "--row", "laterals", "--seeds", "1") == 2
    assert re.search(says("1 of 1 cells failed … laterals-0 … damaged.safetensors"), capsys.readouterr().err)
