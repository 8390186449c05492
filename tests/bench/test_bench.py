"""The benchmark harness measures what it says; how fast anything is, no test asserts."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from pst.bench import Roofline, interleave, peak_memory, run_models, run_modules
from pst.bench.report import MODULE_HEADER, module_rows
from pst.bench.suites import one_call
from pst.bench.textbook import textbook_forward
from pst.cli import main
from pst.modules import PyramidSparseAttention

PEAKS = Roofline(matmul_gflops=100.0, exp_gops=1.0, copy_gbs=10.0)


@pytest.mark.parametrize("topk", [0, 3, 100])
def test_textbook_is_the_same_attention(topk: int) -> None:
    torch.manual_seed(0)
    module = PyramidSparseAttention(64, 2, topk=topk).double().eval()
    x, upper = torch.randn(2, 64, 8, 12).double(), torch.randn(2, 64, 4, 6).double()
    torch.testing.assert_close(textbook_forward(module, x, upper), module(x, upper))


def test_cases_take_turns_and_the_median_is_theirs() -> None:
    calls: list[str] = []

    def case(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    times = interleave({"a": partial(case, "a", 0.02), "b": partial(case, "b", 0.001)}, seconds=0.0, min_runs=5)
    assert calls == ["a", "b"] * (2 + 5)
    assert times["a"].runs == times["b"].runs == 5
    assert times["a"].low <= times["a"].median <= times["a"].high
    assert times["a"].median >= 20


def allocate(megabytes: int, *, warmup: bool = False) -> None:
    block = bytearray((1 if warmup else megabytes) * 1_000_000)
    block[::4096] = b"x" * len(block[::4096])


def test_peak_memory_is_that_of_the_call() -> None:
    assert peak_memory(one_call, "pst", 8, 32, 0, False) < 30
    assert 190 < peak_memory(allocate, 200) < 230


def test_least_time_counts_products_and_exponentials() -> None:
    assert PEAKS.attention_ms(1000, 500, 64) == pytest.approx(1e3 * (4 * 1000 * 500 * 64 / 1e11 + 1000 * 500 * 2 / 1e9))


def test_module_records_hold_both_sides() -> None:
    (record,) = run_modules([(8, 32)], (2,), memory=False, roofline=PEAKS, seconds=0.0)
    assert (record["n"], record["channels"], record["topk"]) == (64, 32, 2)
    assert record["speedup"] == record["textbook_ms"]["median"] / record["pst_ms"]["median"]
    assert record["roofline_ms"] == PEAKS.attention_ms(64, 16 + 8, 32)
    assert len(module_rows([record])[0]) == len(MODULE_HEADER)


def test_training_step_reaches_every_weight() -> None:
    (record,) = run_modules([(8, 32)], (0,), train=True, memory=False, roofline=PEAKS, seconds=0.0)
    assert record["train"] is True
    assert "roofline_ms" not in record


def test_models_are_compared_with_the_first() -> None:
    def build(width: int) -> torch.nn.Module:
        return torch.nn.Conv2d(3, width, 3)

    records = run_models({"small": partial(build, 4), "large": partial(build, 64)}, imgsz=64, seconds=0.0)
    assert [r["model"] for r in records] == ["small", "large"]
    assert records[0]["ratio"] == 1
    assert records[1]["parameters"] == 64 * 28


def test_command_writes_table_json_and_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    pytest.importorskip("matplotlib", reason="the viz extra is not installed")
    monkeypatch.setattr("pst.bench.SIZES", ((8, 32),))
    monkeypatch.setattr("pst.bench.measure_roofline", lambda device: PEAKS)
    monkeypatch.setattr("pst.bench.suites.peak_memory", lambda function, kind, *args, threads: 1.0 + len(kind))
    threads = torch.get_num_threads()
    assert main(["bench", "--quick", "--seconds", "1", "--threads", "1", "--out", str(tmp_path)]) == 0
    torch.set_num_threads(threads)
    result = json.loads((tmp_path / "module.json").read_text())
    assert [(r["n"], r["topk"]) for r in result["records"]] == [(64, 0), (64, 8)]
    assert [(r["pst_mb"], r["textbook_mb"]) for r in result["records"]] == [(4.0, 9.0)] * 2
    assert result["hardware"]["threads"] == 1
    assert {"versions", "commit", "roofline", "settings"} <= result.keys()
    assert (tmp_path / "module.png").stat().st_size > 1000
    assert "speed-up" in capsys.readouterr().out
