"""The benchmark harness measures what it says; how fast anything is, no test asserts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from lab.bench import Case, Roofline, Work, added_memory, count_work, interleave, measure_suite, run_cases, run_models
from lab.bench.cases import one_call
from lab.bench.detectors import run_detectors
from lab.bench.imports import PROGRAMS, run_imports
from lab.bench.plan import CHECK, FULL, QUICK
from lab.bench.rivals import LEVELS, layers, necks, run_rivals
from lab.bench.textbook import textbook_attention, textbook_layer
from pst.modules import PST, PyramidSparseAttention

PEAKS = Roofline(matmul_gflops=100.0, exp_gops=1.0, copy_gbs=10.0)


@pytest.mark.parametrize("topk", [0, 3, 100])
def test_textbook_is_the_same_attention(topk: int) -> None:
    module = PyramidSparseAttention(64, 2, topk=topk).double().eval()
    x, upper = torch.randn(2, 64, 8, 12).double(), torch.randn(2, 64, 4, 6).double()
    torch.testing.assert_close(textbook_attention(module, x, upper), module(x, upper))


@pytest.mark.parametrize("topk", [0, 3])
def test_textbook_is_the_same_layer(topk: int) -> None:
    module = PST(48, 80, 128, depth=2, topk=topk).double().eval()
    x, upper = torch.randn(2, 48, 8, 12).double(), torch.randn(2, 80, 4, 6).double()
    torch.testing.assert_close(textbook_layer(module, x, upper), module(x, upper))


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


def test_shuffled_rounds_have_every_case_once_and_no_fixed_order() -> None:
    calls: list[str] = []
    times = interleave(
        {name: partial(calls.append, name) for name in "abc"}, seconds=0.0, min_runs=10, warmup=1, shuffled=True
    )
    rounds = ["".join(calls[at : at + 3]) for at in range(0, len(calls), 3)]
    assert len(rounds) == 11
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 3
    assert {each[0] for each in rounds} == set("abc")
    assert list(times) == ["a", "b", "c"]
    assert times["c"].runs == 10


def test_added_memory_of_a_small_layer_is_small() -> None:
    assert added_memory(one_call, "pst", Case(8, 32)) < 30


def test_the_op_has_less_work_than_the_layer_around_it() -> None:
    for topk in (0, 2):
        case = Case(16, 32, topk)
        op, whole = case.op_work(), case.work()
        assert op.flops < whole.flops
        assert op.exponentials == whole.exponentials == 256 * (64 + 4 * topk) + (256 * 32 if topk else 0)


def test_textbook_has_at_least_our_work() -> None:
    case = Case(16, 32, 2)
    theirs = count_work(case.module(), case.maps(), forward=textbook_attention)
    assert theirs.flops >= case.work().flops
    assert theirs.exponentials == case.work().exponentials


def test_least_time_is_products_then_exponentials() -> None:
    assert PEAKS.least_ms(Work(flops=10**8, exponentials=10**6)) == pytest.approx(1 + 1)


@pytest.mark.parametrize(("layer", "train"), [("attention", False), ("PST", True)])
def test_records_hold_both_sides(layer: str, train: bool) -> None:
    case = Case(8, 32, 2, layer=layer, train=train)
    (record,) = run_cases([case], memory=lambda _: False, roofline=PEAKS, seconds=0.0)
    assert (record["n"], record["channels"], record["topk"], record["train"]) == (64, 32, 2, train)
    assert record["speedup"] == record["textbook_ms"]["median"] / record["pst_ms"]["median"]
    assert record["least_ms"] == PEAKS.least_ms(case.work())
    assert record["share"] == pytest.approx(record["least_ms"] / record["pst_ms"]["median"])
    assert ("op_share" in record) is not train
    assert "pst_mb" not in record


def test_an_implementation_can_be_named() -> None:
    Case(8, 32, 2).call("reference")()
    with pytest.raises(ValueError, match="impl"):
        Case(8, 32, 2).call("no such one")()


def test_models_are_compared_with_the_first() -> None:
    def build(width: int) -> nn.Module:
        return nn.Conv2d(3, width, 3)

    records = run_models({"small": partial(build, 4), "large": partial(build, 64)}, imgsz=64, seconds=0.0)
    assert [r["name"] for r in records] == ["small", "large"]
    assert records[0]["ratio"] == 1
    assert records[1]["parameters"] == 64 * 28


@pytest.mark.slow
def test_detectors_are_held_against_the_work_that_they_have() -> None:
    pytest.importorskip("ultralytics")
    names = ("yolo11n-pst k=0", "yolo11n-pst k=4")
    coarse, fine = run_detectors(names, imgsz=64, seconds=0.0, roofline=PEAKS)
    twice = run_detectors(names[1:], imgsz=64, seconds=0.0, roofline=PEAKS, batch=2)[0]
    for r in (coarse, fine, twice):
        least = PEAKS.least_ms(Work(round(1e9 * r["gflops"]), round(1e9 * r["gexp"])))
        assert r["least_ms"] == pytest.approx(least)
        assert r["share"] == pytest.approx(least / r["ms"]["median"])
    # softmax over 4k children and the sigmoid of the gate: 16 queries of two heads of 32 channels, 64 of one head
    assert round(1e9 * (fine["gexp"] - coarse["gexp"])) == 16 * (16 * 2 + 64) + 64 * (16 * 1 + 32)
    assert (twice["gflops"], twice["gexp"]) == pytest.approx((2 * fine["gflops"], 2 * fine["gexp"]))


def test_every_layer_and_neck_fuses_the_same_maps() -> None:
    pytest.importorskip("ultralytics")
    pytest.importorskip("torchvision")
    x, upper = torch.randn(1, 64, 16, 16), torch.randn(1, 64, 8, 8)
    for name, build in layers(64).items():
        assert build().eval()(x, upper).shape == x.shape, name
    maps = [torch.randn(1, c, side // 4, side // 4) for c, side in LEVELS]
    for name, build in necks().items():
        if "effdet" in name:  # its sizes are fixed
            continue
        outputs = build().eval()(*maps)
        assert [tuple(out.shape[2:]) for out in outputs] == [tuple(m.shape[2:]) for m in maps], name
        assert {out.shape[1] for out in outputs} == {64}, name


def test_a_rival_without_its_package_is_said_to_be_left_out() -> None:
    def missing() -> nn.Module:
        raise ImportError("no module named somewhere")

    builders: dict[str, Callable[[], nn.Module]] = {"ours": lambda: nn.Conv2d(3, 4, 1), "theirs": missing}
    first, last = run_rivals(builders, [torch.randn(1, 3, 8, 8)], roofline=PEAKS, seconds=0.0)
    assert (first["name"], first["ratio"], first["gflops"]) == ("ours", 1.0, 2 * 64 * 3 * 4 / 1e9)
    assert last["name"] == "theirs"
    assert "no module named somewhere" in last["skipped"]


def test_imports_are_those_of_fresh_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.bench.imports.PROGRAMS", {"nothing": "", "sleep": "import time; time.sleep(0.3)"})
    nothing, sleep = run_imports(rounds=2)
    assert nothing["ms"]["median"] > 0
    assert sleep["ms"]["median"] >= 300  # whatever else the machine is doing
    assert PROGRAMS["import torch"] == "import torch"


def test_a_suite_says_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.bench.plan.measure_roofline", lambda device, seconds: PEAKS)
    plan = replace(QUICK, sizes=((8, 32),), rivals=False, seconds=0.0, min_runs=2, memory_from=(10**6, 10**6))
    result: dict[str, Any] = json.loads(json.dumps(measure_suite("module", plan)))
    assert {"suite", "created", "settings", "roofline", "hardware", "versions", "commit"} <= result.keys()
    assert [(r["n"], r["topk"]) for r in result["records"]] == [(64, 0), (64, 8)]
    assert result["settings"]["device"] == "cpu"


def test_the_plans_measure_what_the_targets_name() -> None:
    for plan in (FULL, CHECK):
        assert {(10, 32), (20, 32), (40, 32), (80, 32), (80, 64), (80, 128), (160, 64)} <= set(plan.sizes)
        assert (80, 64) in plan.train_sizes
        assert plan.memory_from[0] <= 160**2
        assert plan.memory_from[1] <= 80**2
    assert {"yolo11n", "yolo12n", "yolo26n", "yolo11s", "yolo12s", "yolo26s"} <= {n for g in FULL.detectors for n in g}
