"""The GPU benchmark runs on a CPU at small sizes, records what fails, and never stops midway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.bench.gpu import measure
from lab.bench.gpu.kernel import _least
from lab.bench.gpu.summary import tables
from lab.bench.gpu.window import WANTED
from pst.functional._dispatch import FASTER

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the program in this process: its exit code and what it wrote."""

    def run(*options: str) -> tuple[int, dict[str, Any]]:
        out = tmp_path / "gpu.json"
        monkeypatch.setattr(sys, "argv", ["measure", "--out", str(out), "--quick", *options])
        return measure.main(), json.loads(out.read_text())

    return run


@pytest.mark.slow
def test_the_script_measures_in_processes_of_their_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "lab/bench/gpu/run.sh"), str(tmp_path / "gpu.json"), "--device", "cpu", "--quick", "--only",
         "correctness"],
        capture_output=True, text=True, timeout=900, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert {"created", "settings", "hardware", "versions", "commit"} <= result.keys()
    correctness = result["sections"]["correctness"]
    assert correctness["status"] == "passed"
    assert all(record["ok"] for record in correctness["records"])
    assert {record["dtype"] for record in correctness["records"]} == {
        "torch.float32",
        "torch.float16",
        "torch.bfloat16",
    }


def test_a_section_without_time_is_left_out_and_fails_the_whole(call: Any) -> None:
    code, result = call("--device", "cpu", "--only", "correctness,backends", "--budget", "5")
    assert code == 1
    assert [section["status"] for section in result["sections"].values()] == ["left out", "left out"]


def test_two_runs_make_one_file_and_another_commit_begins_anew(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PST_COMMIT", "abc")
    monkeypatch.setattr(measure, "_start", lambda name, limit, args: {"status": "passed", "seconds": 1.0})
    call("--device", "cpu", "--only", "graphs,window")
    code, result = call("--device", "cpu", "--only", "bounded")
    assert (code, result["commit"], result["seconds"]) == (0, "abc", 3.0)
    assert list(result["sections"]) == ["graphs", "window", "bounded"]
    monkeypatch.setenv("PST_COMMIT", "def")
    assert list(call("--device", "cpu", "--only", "window")[1]["sections"]) == ["window"]


@pytest.mark.parametrize("section", ["window", "dispatch", "bounded"])
def test_what_a_gpu_is_asked_runs_here_at_small_sizes(call: Any, section: str) -> None:
    code, result = call("--device", "cpu", "--section", section)
    assert (code, result["status"]) == (0, "passed"), result
    assert result["records"]
    assert not [record for record in result["records"] if "error_text" in record]
    ((title, (_, rows)),) = tables({section: result})
    assert (title, len(rows[0])) == (section, len(rows[-1]))
    if section == "window":
        assert {name: judged["met"] for name, judged in result["records"][0]["wanted"].items()}.keys() == WANTED.keys()
    if section == "dispatch":
        assert {(r["mode"], r["train"]) for r in result["records"]} == FASTER.keys()


def test_what_cannot_run_here_is_skipped(call: Any) -> None:
    code, section = call("--device", "cpu", "--section", "graphs")
    assert (code, section["status"], section["error"]) == (0, "skipped", "CUDA graphs need a CUDA device")


def test_a_device_that_is_not_there_is_recorded(call: Any) -> None:
    code, section = call("--device", "xpu:7", "--section", "training")
    assert (code, section["status"]) == (1, "failed")
    assert "xpu" in section["error"].lower()


@pytest.mark.parametrize(
    ("speedups", "least"), [((0.9, 1.2, 1.3), 2), ((1.2, 1.01, 1.3), 3), ((1.2, 1.3, 0.9), None), ((1.1, 1.1, 1.1), 1)]
)
def test_triton_is_called_faster_from_the_size_on_after_which_it_is_never_slower(speedups: Any, least: Any) -> None:
    assert _least([{"logits": i + 1, "speedup": s} for i, s in enumerate(speedups)]) == least


def test_tables_show_models_and_ways_to_run_and_leave_out_what_failed() -> None:
    failed = {"dtype": "torch.float32", "error_text": "no"}
    way = {"dtype": "torch.float16", "topk": 8, "eager_ms": {"median": 2.0}, "graph_ms": {"median": 0.5}, "error": 0.0}
    models = {"dtype": "torch.float32", "batch": 32, "models": [{"name": "a", "ms": {"median": 3.0}, "ratio": 1.0}]}
    found = dict(tables({"graphs": {"records": [failed, way]}, "detectors": {"records": [models]}, "compiled": {}}))
    assert found["graphs"][1] == [("float16", "topk=8", "2", "0.5", "0.0e+00")]
    assert found["detectors"][1] == [("float32", "32", "a", "3", "1.00")]
    assert found.keys() == {"graphs", "detectors"}
