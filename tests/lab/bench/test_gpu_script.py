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

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the program in this process: its exit code and what it wrote."""

    def run(*options: str) -> tuple[int, dict[str, Any]]:
        out = tmp_path / "gpu.json"
        monkeypatch.setattr(sys, "argv", ["measure", "--out", str(out), "--quick", *options])
        return measure.main(), json.loads(out.read_text())

    return run


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


def test_what_cannot_run_here_is_skipped(call: Any) -> None:
    code, section = call("--device", "cpu", "--section", "graphs")
    assert (code, section["status"], section["error"]) == (0, "skipped", "CUDA graphs need a CUDA device")


def test_a_device_that_is_not_there_is_recorded(call: Any) -> None:
    code, section = call("--device", "xpu:7", "--section", "training")
    assert (code, section["status"]) == (1, "failed")
    assert "xpu" in section["error"].lower()
