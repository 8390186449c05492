"""Running cells: each once, errors kept, interruptions gone on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from ctypes import create_string_buffer
from pathlib import Path
from typing import Any

import pytest

import cell_stand_in as stand_in
import lab
from lab.study import cell_process, run
from lab.study.cell_process import FAILED, TAKEN, Order, run_cell
from lab.study.grid import load_study
from lab.study.result_files import is_done, is_locked, lock, make_folders, result_path
from lab.study.run import run_studies, run_study
from lab.study.task import Paused, Task

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

    def __call__(self, task: Task) -> dict[str, object]:
        self.seen.append(task.cell.id)
        self.work.append(task.work)
        task.say("at work")
        if task.cell.id == self.fail:
            raise RuntimeError("it broke")
        if task.cell.id == self.pause:
            raise Paused
        return {"value": 0.5}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def work(
    study: Path, out: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch, *, end: float | None = None
) -> list[int]:
    """Run every cell in this process; their exit codes."""
    monkeypatch.setattr(cell_process, "runner", lambda _: runner)
    make_folders(out)
    return [run_one(Order(cell, study.parent, study.parent, out, "cpu", end)) for cell in load_study(study).cells]


def run_one(order: Order) -> int:
    note = create_string_buffer(100)
    try:
        run_cell(order, note)
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


def test_each_cell_is_run_once(study, tmp_path, monkeypatch):
    runner, out = Runner(), tmp_path / "out"
    assert work(study, out, runner, monkeypatch) == [0, 0, 0]
    assert runner.seen == ["a-m-r-0", "a-m-r-1", "a-m-r-2"]
    assert work(study, out, runner, monkeypatch) == [0, 0, 0]
    assert len(runner.seen) == 3
    result = json.loads((out / "results/a-m-r-1.json").read_text())
    assert (result["seed"], result["value"]) == (1, 0.5)
    assert result["settings"]["models"] == {"yaml": "m.yaml"}
    assert {"hardware", "versions", "commit", "digest", "seconds_in_all"} <= result.keys()


def test_a_cell_that_another_process_has_is_left_to_it(study, tmp_path, monkeypatch):
    out, runner = tmp_path / "out", Runner()
    make_folders(out)
    cell = load_study(study).cells[1]
    with lock(out, cell):
        assert is_locked(out, cell)
        assert work(study, out, runner, monkeypatch) == [0, TAKEN, 0]
    assert not is_locked(out, cell)
    assert runner.seen == ["a-m-r-0", "a-m-r-2"]


def test_an_error_is_kept_until_the_cell_has_a_result(study, tmp_path, monkeypatch):
    out, broken = tmp_path / "out", Runner(fail="a-m-r-0")
    assert work(study, out, broken, monkeypatch) == [FAILED, 0, 0]
    error = json.loads((out / "failed/a-m-r-0.json").read_text())
    assert "it broke" in error["error"]
    assert "Traceback" in error["traceback"]
    mended = Runner()
    assert work(study, out, mended, monkeypatch) == [0, 0, 0]
    assert mended.seen == ["a-m-r-0"]
    assert not list((out / "failed").iterdir())


def test_a_paused_cell_leaves_nothing_and_is_gone_on_with(study, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert work(study, out, Runner(pause="a-m-r-2"), monkeypatch) == [0, 0, 0]
    assert sorted(p.stem for p in (out / "results").iterdir()) == ["a-m-r-0", "a-m-r-1"]
    assert not list((out / "failed").iterdir())
    later = Runner()
    assert work(study, out, later, monkeypatch) == [0, 0, 0]
    assert later.seen == ["a-m-r-2"]


def test_what_runs_stops_at_the_deadline(study, tmp_path, monkeypatch):
    assert work(study, tmp_path / "out", Runner(), monkeypatch, end=time.time() - 1) == [0, 0, 0]
    assert not list((tmp_path / "out/results").iterdir())
    note = create_string_buffer(100)
    cell_process._reporter(note, None)("épreuve 1/2" * 50)  # cut to the room that there is
    assert note.value.decode(errors="replace").startswith("épreuve 1/2")


def test_a_training_of_other_settings_is_not_gone_on_with(study, tmp_path, monkeypatch):
    def folder(text: str, model: str) -> Path:
        study.write_text(text)
        (tmp_path / "m.yaml").write_text(model)
        runner = Runner(pause="a-m-r-0")
        assert work(study, tmp_path / "out", runner, monkeypatch) == [0, 0, 0]
        for result in (tmp_path / "out/results").iterdir():
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


def test_a_result_of_other_settings_is_refused(study, tmp_path, monkeypatch):
    assert work(study, tmp_path / "out", Runner(), monkeypatch) == [0, 0, 0]
    study.write_text(STUDY.replace("imgsz: 64", "imgsz: 96"))
    with pytest.raises(ValueError, match="made with other settings"):
        is_done(tmp_path / "out", load_study(study).cells[0])


def test_a_result_of_another_model_file_is_refused(study, tmp_path, monkeypatch):
    model, out = tmp_path / "m.yaml", tmp_path / "out"
    model.write_text("rows: [1]\n")
    assert work(study, out, Runner(), monkeypatch) == [0, 0, 0]
    model.write_text("rows: [2]\n")
    cell = load_study(study).cells[0]
    with pytest.raises(ValueError, match="made with other settings or another model file"):
        is_done(out, cell)
    path = result_path(out, cell)
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


def two_studies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Path], list[Any]]:
    """Studies of the data sets a and b, and the list of what is done with them; cells are not run."""
    paths, calls = [folder / "a.yaml", folder / "b.yaml"], []
    paths[0].write_text(STUDY)
    paths[1].write_text(STUDY.replace("data: {a:", "data: {b:").replace("data: a", "data: b"))
    monkeypatch.setattr(run, "_prepare", lambda cells, root: calls.append({c.data for c in cells}))
    monkeypatch.setattr(run, "_run_all", lambda orders, jobs, total, show: calls.append((orders, jobs, total)))
    return paths, calls


def test_several_studies_are_prepared_together_and_run_in_their_order(tmp_path, monkeypatch):
    paths, calls = two_studies(tmp_path, monkeypatch)
    lines: list[str] = []
    began = time.time()
    options: dict[str, Any] = {"data_root": tmp_path, "out": tmp_path / "out", "show": lines.append}
    assert run_studies(paths, deadline=60, jobs=2, **options) is False
    (orders, jobs, total) = calls[1]
    assert calls[0] == {"a", "b"}
    assert [order.cell.id for order in orders] == [f"{data}-m-r-{seed}" for data in "ab" for seed in range(3)]
    assert (jobs, total) == (2, 6)
    assert began + 60 <= orders[0].end <= time.time() + 60
    assert lines == ["a: 0 of 3 cells have results", "b: 0 of 3 cells have results"]


def test_studies_without_a_fitting_cell_are_passed_over(tmp_path, monkeypatch):
    paths, calls = two_studies(tmp_path, monkeypatch)
    run_studies(paths, data_root=tmp_path, out=tmp_path / "out", only="b-m-r-1")
    assert [order.cell.id for order in calls[1][0]] == ["b-m-r-1"]
    with pytest.raises(ValueError, match=r"no cell of .*a\.yaml has 'c' in its name"):
        run_studies(paths, data_root=tmp_path, out=tmp_path / "out", only="c")


def test_two_studies_with_different_cells_of_one_name_are_refused(tmp_path, monkeypatch):
    paths, calls = two_studies(tmp_path, monkeypatch)
    paths[1].write_text(STUDY.replace("imgsz: 64", "imgsz: 96"))
    with pytest.raises(ValueError, match=r"b\.yaml .* different cells of the name a-m-r-0"):
        run_studies(paths, data_root=tmp_path, out=tmp_path / "out")
    assert not calls


def test_only_data_sets_of_files_are_looked_for(tmp_path, monkeypatch):
    """The synthetic task has no data set, and other runners look for theirs themselves."""
    paths, _ = two_studies(tmp_path, monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(run, "_run_all", lambda *_: None)
    text = STUDY.replace("runner: ultralytics", "runner: retrieval").replace("path: data.yaml, ", "")
    paths[0].write_text(text)
    paths[1].write_text(
        STUDY.replace("runner: ultralytics", "runner: classify").replace("{a:", "{b:").replace("a: a", "a: b")
    )
    assert run_studies(paths, data_root=tmp_path, out=tmp_path / "out") is False


def test_missing_data_is_said_before_processes_start(study, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data set .*data\.yaml"):
        run_study(study, data_root=tmp_path, out=tmp_path / "out")


def test_a_fault_of_the_second_study_is_said_before_the_first_trains(tmp_path, monkeypatch):
    paths, calls = two_studies(tmp_path, monkeypatch)
    other = tmp_path / "out/results/b-m-r-0.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"digest": "of other settings"}))
    with pytest.raises(ValueError, match=r"b-m-r-0\.json was made with other settings"):
        run_studies(paths, data_root=tmp_path, out=tmp_path / "out")
    paths[1].write_text("runner: none\n")
    with pytest.raises(ValueError, match="runner must be one of"):
        run_studies(paths, data_root=tmp_path, out=tmp_path / "out")
    assert not calls


def in_processes(folder: Path, recipes: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """A study whose cells do what their recipe is called, see `cell_stand_in`, and the arguments to run it with."""
    path = folder / "study.yaml"
    path.write_text(
        "runner: classify\ndata: {a: {path: a}}\nmodels: {m: {}}\n"
        f"recipes: {{{', '.join(f'{name}: {{}}' for name in recipes)}}}\n"
        f"cells: [{{data: a, model: m, recipe: [{', '.join(recipes)}]}}]\n"
    )
    monkeypatch.setattr(cell_process, "main", stand_in.stand_in_main)
    return path, {"data_root": folder, "out": folder / "out"}


def begun(folder: Path) -> list[tuple[str, int]]:
    """Recipe and process of each time that a cell was begun."""
    file = folder / "begun"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [(line.split("-")[2], int(line.split()[1])) for line in lines]


def test_a_cell_that_fails_or_whose_process_dies_is_no_harm_to_the_others(tmp_path, monkeypatch):
    study, options = in_processes(tmp_path, ["fail", "exit", "kill", "fine"], monkeypatch)
    monkeypatch.setattr(run, "_SHOWN", 0.0)
    lines: list[str] = []
    assert not run_study(study, jobs=2, show=lines.append, **options)
    assert {p.stem for p in (tmp_path / "out/results").iterdir()} == {"a-m-fine-0"}
    errors = {p.stem: json.loads(p.read_text())["error"] for p in (tmp_path / "out/failed").iterdir()}
    assert errors == {
        "a-m-fail-0": "RuntimeError('it broke')",
        "a-m-exit-0": "its process ended with exit code 3",
        "a-m-kill-0": "its process was ended by SIGKILL, out of memory?",
    }
    assert len({pid for _, pid in begun(tmp_path)} - {os.getpid()}) == 4  # a process each
    assert sum("failed, see" in line for line in lines) == 3
    assert any("/4 done; running: a-m-" in line for line in lines)
    assert "1 of 4 cells have results; failed: a-m-fail-0, a-m-exit-0, a-m-kill-0" in lines[-1]


def test_two_runs_share_the_cells_of_a_folder(tmp_path, monkeypatch):
    recipes = ["one", "two", "three"]
    study, options = in_processes(tmp_path, recipes, monkeypatch)
    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(run_study, study, **options) for _ in range(2)]
    assert any(each.result() for each in runs)  # the one that ended last found all of them done
    assert Counter(name for name, _ in begun(tmp_path)) == Counter(recipes)


def test_after_the_deadline_no_cell_is_begun(tmp_path, monkeypatch):
    study, options = in_processes(tmp_path, ["wait", "fine"], monkeypatch)
    assert not run_study(study, deadline=0.5, **options)
    assert [name for name, _ in begun(tmp_path)] == ["wait"]
    assert not [*(tmp_path / "out/results").iterdir(), *(tmp_path / "out/failed").iterdir()]


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, id="SIGINT"), pytest.param(signal.SIGKILL, id="SIGKILL", marks=pytest.mark.slow)],
)
def test_the_processes_of_cells_end_with_the_run_and_the_next_one_goes_on(tmp_path, monkeypatch, number):
    study, options = in_processes(tmp_path, ["wait"], monkeypatch)
    call = [sys.executable, stand_in.__file__, *map(str, (study, tmp_path, tmp_path / "out"))]
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(call, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}) as first:
        wait_for(lambda: begun(tmp_path))
        first.send_signal(number)
        assert first.wait(60) != 0
    cell = load_study(study).cells[0]
    wait_for(lambda: not is_locked(tmp_path / "out", cell))  # its process is gone
    assert run_study(study, **options)
    assert json.loads(result_path(tmp_path / "out", cell).read_text())["resumed"] is True


def wait_for(what: Any) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "lab", "study", "run", *map(str, args), "--device", "cpu"]


@pytest.mark.slow
def test_real_cells_killed_and_gone_on_with_by_two_processes(tmp_path):
    """Two processes; all are killed in the middle of training; the next run goes on where they were."""
    pytest.importorskip("ultralytics")
    from pst.data import digits

    digits.make(tmp_path / "digits", train=16, val=8, imgsz=64)
    models = Path(lab.__file__).parent / "studies" / "models"
    study, out = tmp_path / "real.yaml", tmp_path / "out"
    study.write_text(
        "runner: ultralytics\nseeds: [0]\n"
        "data: {digits: {path: digits/data.yaml, train: {imgsz: 64, epochs: 4, batch: 8, amp: false, "
        "workers: 0, val_every: 3}}}\n"
        f"models: {{fpn: {{yaml: {models}/neck-fpn.yaml}}, pst: {{yaml: {models}/neck-pst.yaml, evaluations: few}}}}\n"
        "recipes:\n  plain: {}\n"
        "  random: {fusion: refine, stochastic_topk: {choices: [0, 2]}, track_fine_statistics: true}\n"
        "evaluations: {few: [{k: 0}, {k: [2, all, [2, 0]], fusion: [gate, refine]}, {k: 2, gate: 0.25}, "
        "{k: 2, selection: [window, 'random:1']}, {k: 2, use: [calibrated, tuned]}]}\n"
        "cells:\n  - {data: digits, model: fpn, recipe: plain}\n"
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
    assert sorted(results) == ["digits-fpn-plain-0", "digits-pst-random-0"]
    assert all(len(r["training"]["loss"]) == 4 for r in results.values())
    assert any(results[name]["training"]["resumed_at_epoch"] > 0 for name in unfinished)
    assert len(results["digits-pst-random-0"]["evaluations"]) == 12
    for result in results.values():  # the last point of the curve is the model that is evaluated
        assert [epoch for epoch, _ in result["training"]["curve"]] == [3, 4]
        assert result["training"]["curve"][-1][1] == pytest.approx(result["evaluations"]["k0"]["value"], abs=1e-4)
    assert all(p.stat().st_size < 30_000 for p in (out / "results").glob("*.json"))
