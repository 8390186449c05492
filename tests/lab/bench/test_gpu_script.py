"""The GPU benchmark runs on a CPU at small sizes, records what fails, and never stops midway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def run(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(ROOT / "lab" / "bench" / "gpu" / "run.sh"), str(out), "--device", "cpu", "--quick", *options],
        capture_output=True, text=True, timeout=900, check=False, env=environment,
    )  # fmt: skip


def test_what_passes_and_what_cannot_run_here(tmp_path: Path) -> None:
    done = run(tmp_path / "gpu.json", "--only", "correctness,graphs")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert {"created", "settings", "hardware", "versions", "commit"} <= result.keys()
    correctness, graphs = (result["sections"][name] for name in ("correctness", "graphs"))
    assert correctness["status"] == "passed"
    assert all(record["ok"] for record in correctness["records"])
    assert {record["dtype"] for record in correctness["records"]} == {
        "torch.float32",
        "torch.float16",
        "torch.bfloat16",
    }
    assert (graphs["status"], graphs["error"]) == ("skipped", "CUDA graphs need a CUDA device")


def test_a_section_without_time_is_left_out_and_fails_the_whole(tmp_path: Path) -> None:
    done = run(tmp_path / "gpu.json", "--only", "correctness,backends", "--budget", "5")
    assert done.returncode == 1
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert [section["status"] for section in sections.values()] == ["left out", "left out"]


def test_a_device_that_is_not_there_is_recorded(tmp_path: Path) -> None:
    done = run(tmp_path / "gpu.json", "--only", "training", "--device", "xpu:7")
    assert done.returncode == 1
    training = json.loads((tmp_path / "gpu.json").read_text())["sections"]["training"]
    assert training["status"] == "failed"
    assert "xpu" in training["error"].lower()
