"""Running cells: each once, errors kept, interruptions gone on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lab.study import pool, worker
from lab.study.grid import load_study
from lab.study.pool import run_studies, run_study
from lab.study.worker import Paused, is_done

STUDY = """
runner: ultralytics
seeds: [0, 1, 2]
data: {a: {path: data.yaml, train: {imgsz: 64}}}
models: {m: {yaml: m.yaml}}
recipes: {r: {}}
cells:
  - {data: a, model: m, recipe: r}
"""


class Runner:
    """Stands in for a runner: counts the cells it is given, fails or pauses where told."""

    def __init__(self, fail: str = "", pause: str = "") -> None:
        self.seen: list[str] = []
        self.work: list[Path] = []
        self.fail, self.pause = fail, pause

    def __call__(self, task: worker.Task) -> dict[str, object]:
        self.seen.append(task.cell.id)
        self.work.append(task.work)
        task.say("at work")
        if task.cell.id == self.fail:
            raise RuntimeError("it broke")
        if task.cell.id == self.pause:
            raise Paused
        return {"evaluations": {"k0": {"value": 0.5}}}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def work(
    study: Path,
    out: Path,
    runner: Runner,
    monkeypatch: pytest.MonkeyPatch,
    *,
    since: float = 0.0,
    end: float | None = None,
) -> int:
    """One worker's pass over the cells, in this process; its exit code."""
    monkeypatch.setattr(worker, "runner", lambda _: runner)
    for folder in (worker.RESULTS, worker.FAILED, worker.WORK, worker.CLAIMS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    try:
        worker.work(str(study), str(study.parent), str(out), "", end, "cpu", since)
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


def test_each_cell_is_run_once(study, tmp_path, monkeypatch):
    runner = Runner()
    assert work(study, tmp_path / "out", runner, monkeypatch) == 0
    assert runner.seen == ["a-m-r-0", "a-m-r-1", "a-m-r-2"]
    assert work(study, tmp_path / "out", runner, monkeypatch) == 0
    assert len(runner.seen) == 3
    result = json.loads((tmp_path / "out/results/a-m-r-1.json").read_text())
    assert result["seed"] == 1
    assert result["settings"]["models"] == {"yaml": "m.yaml"}
    assert {"hardware", "versions", "commit", "digest"} <= result.keys()
    assert not list((tmp_path / "out/claims").iterdir())


def test_a_cell_that_another_worker_has_is_left_to_it(study, tmp_path, monkeypatch):
    out, runner = tmp_path / "out", Runner()
    claim = worker.Claim(out / worker.CLAIMS, "a-m-r-1")
    assert claim.acquire()
    assert work(study, out, runner, monkeypatch) == 0
    assert runner.seen == ["a-m-r-0", "a-m-r-2"]


def test_an_error_is_kept_and_the_cell_tried_again_in_the_next_run(study, tmp_path, monkeypatch):
    out, broken = tmp_path / "out", Runner(fail="a-m-r-0")
    begun = time.time() - 1
    assert work(study, out, broken, monkeypatch, since=begun) == worker.AGAIN  # a fresh process goes on
    assert work(study, out, broken, monkeypatch, since=begun) == 0
    assert broken.seen == ["a-m-r-0", "a-m-r-1", "a-m-r-2"]
    error = json.loads((out / "failed/a-m-r-0.json").read_text())
    assert "it broke" in error["error"]
    assert "Traceback" in error["traceback"]
    mended = Runner()
    assert work(study, out, mended, monkeypatch, since=time.time() + 1) == 0
    assert mended.seen == ["a-m-r-0"]
    assert not list((out / "failed").iterdir())


def test_a_paused_cell_leaves_nothing_and_is_gone_on_with(study, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert work(study, out, Runner(pause="a-m-r-2"), monkeypatch) == 0
    assert sorted(p.stem for p in (out / "results").iterdir()) == ["a-m-r-0", "a-m-r-1"]
    assert not list((out / "failed").iterdir())
    later = Runner()
    assert work(study, out, later, monkeypatch) == 0
    assert later.seen == ["a-m-r-2"]


def test_a_training_of_other_settings_is_not_gone_on_with(study, tmp_path, monkeypatch):
    def folder(text: str, model: str) -> Path:
        study.write_text(text)
        (tmp_path / "m.yaml").write_text(model)
        runner = Runner(pause="a-m-r-0")
        assert work(study, tmp_path / "out", runner, monkeypatch) == 0
        for result in (tmp_path / "out" / worker.RESULTS).iterdir():
            result.unlink()
        return runner.work[0]

    evaluated = STUDY.replace("{yaml: m.yaml}", "{yaml: m.yaml, evaluations: e}")
    first = folder(evaluated + "evaluations: {e: [{k: 0}]}\n", "rows: [1]\n")
    assert folder(evaluated + "evaluations: {e: [{k: 0}, {k: 8}]}\n", "rows: [1]\n") == first  # weights are the same
    changed = [
        folder(evaluated.replace("imgsz: 64", "imgsz: 96") + "evaluations: {e: [{k: 0}]}\n", "rows: [1]\n"),
        folder(evaluated + "evaluations: {e: [{k: 0}]}\n", "rows: [2]\n"),
    ]
    assert len({first, *changed}) == 3


def test_the_deadline_ends_what_runs_and_begins_nothing(study, tmp_path, monkeypatch):
    out, runner = tmp_path / "out", Runner()
    assert work(study, out, runner, monkeypatch, end=time.time() - 1) == 0
    assert runner.seen == []
    claim = worker.Claim(out / worker.CLAIMS, "x")
    with pytest.raises(Paused):
        worker._reporter(claim, time.time() - 1)("epoch 1/2")


def test_a_result_of_other_settings_is_refused(study, tmp_path, monkeypatch):
    assert work(study, tmp_path / "out", Runner(), monkeypatch) == 0
    study.write_text(STUDY.replace("imgsz: 64", "imgsz: 96"))
    with pytest.raises(ValueError, match="made with other settings"):
        is_done(tmp_path / "out", load_study(study).cells[0])


def test_a_result_of_another_model_file_is_refused(study, tmp_path, monkeypatch):
    model, out = tmp_path / "m.yaml", tmp_path / "out"
    model.write_text("rows: [1]\n")
    assert work(study, out, Runner(), monkeypatch) == 0
    model.write_text("rows: [2]\n")
    cell = load_study(study).cells[0]
    with pytest.raises(ValueError, match="made with other settings or another model file"):
        is_done(out, cell)
    path = worker.result_path(out, cell)
    result = json.loads(path.read_text())
    del result["model_digest"]  # as older results are: they say nothing of their model file
    path.write_text(json.dumps(result))
    assert is_done(out, cell)


def test_wrong_arguments_are_refused_before_any_work(study, tmp_path):
    with pytest.raises(ValueError, match="no cell of"):
        run_study(study, data_root=tmp_path, out=tmp_path / "out", only="nothing")
    with pytest.raises(FileNotFoundError, match="name the one that holds the data sets"):
        run_study(study, data_root=tmp_path / "none", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def two_studies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Path], list[tuple[str, Any]]]:
    """Studies of the data sets a and b, and the list of what is done with them; training does nothing."""
    paths, calls = [folder / "a.yaml", folder / "b.yaml"], []

    def train(path: Path, **options: Any) -> bool:
        calls.append((path.stem, options))
        return path.stem == "a"

    paths[0].write_text(STUDY)
    paths[1].write_text(STUDY.replace("data: {a:", "data: {b:").replace("data: a", "data: b"))
    monkeypatch.setattr(pool, "_prepare", lambda cells, root: calls.append(("prepared", {c.data for c in cells})))
    monkeypatch.setattr(pool, "run_study", train)
    return paths, calls


def test_several_studies_are_prepared_before_the_first_trains(tmp_path, monkeypatch):
    paths, calls = two_studies(tmp_path, monkeypatch)
    assert run_studies(paths, data_root=tmp_path, out=tmp_path / "out", deadline=60, jobs=2) is False  # b has some left
    assert [name for name, _ in calls] == ["prepared", "a", "b"]
    assert calls[0][1] == {"a", "b"}
    assert calls[1][1]["jobs"] == 2
    assert 0 < calls[2][1]["deadline"] <= calls[1][1]["deadline"] <= 60
    assert run_studies(paths[:1], data_root=tmp_path, out=tmp_path / "out") is True


def test_studies_without_a_fitting_cell_are_passed_over(tmp_path, monkeypatch):
    paths, calls = two_studies(tmp_path, monkeypatch)
    run_studies(paths, data_root=tmp_path, out=tmp_path / "out", only="b-m-r-1")
    assert [name for name, _ in calls] == ["prepared", "b"]
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"no cell of .*a\.yaml has 'c' in its name"):
        run_studies(paths, data_root=tmp_path, out=tmp_path / "out", only="c")


def test_only_data_of_ultralytics_is_scanned_by_it(tmp_path, monkeypatch):
    """The made task has no data set, and other runners' data sets are not Ultralytics' to read."""
    yolo = pytest.importorskip("lab.study.runners.yolo", exc_type=ImportError)
    paths = [tmp_path / name for name in ("a.yaml", "b.yaml", "c.yaml")]
    paths[0].write_text(STUDY)
    paths[1].write_text(STUDY.replace("runner: ultralytics", "runner: retrieval").replace("path: data.yaml, ", ""))
    paths[2].write_text(STUDY.replace("runner: ultralytics", "runner: classify").replace("data.yaml", "folder"))
    scanned: list[Path] = []
    monkeypatch.setattr(yolo, "prepare_data", scanned.append)
    monkeypatch.setattr(pool, "run_study", lambda path, **options: True)
    assert run_studies(paths, data_root=tmp_path, out=tmp_path / "out")
    assert scanned == [tmp_path / "data.yaml"]


def test_a_fault_of_the_second_study_is_said_before_the_first_trains(tmp_path, monkeypatch):
    paths, calls = two_studies(tmp_path, monkeypatch)
    other = tmp_path / "out" / worker.RESULTS / "b-m-r-0.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"digest": "of other settings"}))
    with pytest.raises(ValueError, match=r"b-m-r-0\.json was made with other settings"):
        run_studies(paths, data_root=tmp_path, out=tmp_path / "out")
    paths[1].write_text("runner: none\n")
    with pytest.raises(ValueError, match="runner must be one of"):
        run_studies(paths, data_root=tmp_path, out=tmp_path / "out")
    assert not calls


def test_missing_data_is_said_before_workers_start(study, tmp_path):
    pytest.importorskip("ultralytics")
    with pytest.raises(FileNotFoundError, match=r"no data set .*data\.yaml"):
        run_study(study, data_root=tmp_path, out=tmp_path / "out")


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "lab", "study", "run", *map(str, args), "--device", "cpu"]


@pytest.mark.slow
def test_real_cells_killed_and_gone_on_with_by_two_workers(tmp_path):
    """Two workers share a folder; all are killed in the middle of training; the next run goes on where they were."""
    pytest.importorskip("ultralytics")
    from pst.data import digits

    digits.make(tmp_path / "digits", train=16, val=8, imgsz=64)
    models = Path(worker.__file__).parents[1] / "studies" / "models"
    study, out = tmp_path / "real.yaml", tmp_path / "out"
    study.write_text(
        "runner: ultralytics\nseeds: [0]\n"
        "data: {digits: {path: digits/data.yaml, train: {imgsz: 64, epochs: 6, batch: 8, amp: false, "
        "workers: 0, val_every: 4}}}\n"
        f"models: {{fpn: {{yaml: {models}/neck-fpn.yaml}}, pst: {{yaml: {models}/neck-pst.yaml, evaluations: few}}}}\n"
        "recipes:\n  plain: {}\n"
        "  random: {fusion: refine, stochastic_topk: {choices: [0, 2]}, track_fine_statistics: true}\n"
        "evaluations: {few: [{k: 0}, {k: [2, all, [2, 0]], fusion: [gate, refine]}, {k: 2, gate: 0.25}, "
        "{k: 2, selection: [window, 'random:1']}, {k: 2, use: [calibrated, tuned]}]}\n"
        "cells:\n  - {data: digits, model: [pst, fpn], recipe: plain}\n"
        "  - {data: digits, model: pst, recipe: random}\n"
    )
    call = command(study, "--data-root", tmp_path, "--out", out, "--jobs", 2)
    first = subprocess.Popen(call, start_new_session=True)
    end = time.monotonic() + 900
    while not list((out / "cells").glob("*/weights/last.pt")):
        assert time.monotonic() < end
        assert first.poll() is None
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    unfinished = {p.parents[1].name.rpartition("-")[0] for p in (out / "cells").glob("*/weights/last.pt")}
    subprocess.run(call, check=True, timeout=900)
    results = {p.stem: json.loads(p.read_text()) for p in (out / "results").glob("*.json")}
    assert sorted(results) == ["digits-fpn-plain-0", "digits-pst-plain-0", "digits-pst-random-0"]
    assert all(len(r["training"]["loss"]) == 6 for r in results.values())
    assert any(results[name]["training"]["resumed_at_epoch"] > 0 for name in unfinished)
    assert len(results["digits-pst-plain-0"]["evaluations"]) == 12
    for result in results.values():  # the last point of the curve is the model that is evaluated
        assert [epoch for epoch, _ in result["training"]["curve"]] == [4, 6]
        assert result["training"]["curve"][-1][1] == pytest.approx(result["evaluations"]["k0"]["value"], abs=1e-4)
    assert all(p.stat().st_size < 30_000 for p in (out / "results").glob("*.json"))
    assert not list((out / "claims").iterdir())
