"""One sweep for every host: its order, what the model is set to, its rows, and what is refused before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

import pst
from pst.control import attention_layers
from pst.profile.sweep import Evaluated, Row, grid, options, run_sweep

ALL: dict[str, Any] = {"topk": (4, 0, 8), "fusion": ("refine", "gate")}
PLAN = [("none", 0), ("refine", 4), ("refine", 8), ("gate", 4), ("gate", 8)]


def model(fusion: Any = "gate") -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), *(pst.PyramidSparseAttention(8, 1, fusion=fusion) for _ in range(2)))


def sweep(model: nn.Module, seen: list[Any], **asked: Any) -> list[Row]:
    def evaluate(name: str) -> Evaluated:
        settings = {layer.settings for layer in attention_layers(model).values()}
        seen.append((name, *((s.fusion, s.topk) for s in settings)))
        return Evaluated({"top1": 0.25}, latency_ms=len(seen), images=7)

    return list(run_sweep(model, evaluate, **(ALL | asked)))


def test_k_0_comes_first_and_once_then_each_fusion():
    assert grid(**ALL) == PLAN
    assert grid((8,), ("gate",)) == [("gate", 8)]
    assert [options(*entry) for entry in PLAN[:2]] == [{"topk": 0}, {"topk": 4, "fusion": "refine"}]


def test_the_model_is_set_to_what_its_row_says():
    seen: list[Any] = []
    rows = sweep(model(), seen)
    assert [(row.fusion, row.topk) for row in rows] == PLAN
    assert [name for name, _ in seen] == [f"{fusion}-k{k}" for fusion, k in PLAN]
    assert [settings for _, settings in seen[1:]] == PLAN[1:]
    assert seen[0][1][1] == 0


def test_a_row_has_one_form_for_tables_and_files():
    row = sweep(model(), [])[1].flat()
    assert list(row) == ["fusion", "topk", "max_tokens", "top1", "latency_ms", "peak_memory_mb", "gflops", "images"]
    assert row["peak_memory_mb"] > 50
    del row["peak_memory_mb"]
    assert row == {
        "fusion": "refine", "topk": 4, "max_tokens": None, "top1": 0.25, "latency_ms": 2, "gflops": None, "images": 7,
    }  # fmt: skip


def test_every_bound_has_its_rows():
    built, seen = model(), []

    def evaluate(name: str) -> Evaluated:
        seen.append((name, {layer.settings.max_tokens for layer in attention_layers(built).values()}))
        return Evaluated({}, 1.0, 1)

    asked: dict[str, Any] = {"topk": (0, 4), "fusion": ("gate",), "max_tokens": (16, None, 16)}
    rows = list(run_sweep(built, evaluate, **asked, count=lambda: 2.0))
    assert [(row.max_tokens, row.topk) for row in rows] == [(16, 0), (16, 4), (None, 0), (None, 4)]
    assert seen == [("none-k0-m16", {16}), ("gate-k4-m16", {16}), ("none-k0", {None}), ("gate-k4", {None})]
    assert {row.flat()["gflops"] for row in rows} == {2.0}


def test_a_bound_of_the_model_stays_where_none_is_asked_for():
    bounded = model()
    pst.set_max_tokens(bounded, 9)
    assert {row.max_tokens for row in sweep(bounded, [])} == {9}
    assert {layer.settings.max_tokens for layer in attention_layers(bounded).values()} == {9}


def test_the_peak_is_that_of_the_evaluation():
    def evaluate(name: str) -> Evaluated:
        block = np.ones(300_000_000 if name == "gate-k2" else 1, dtype=np.uint8)
        return Evaluated({}, 1.0, int(block[-1]))

    low, high, after = (row.peak_memory_mb for row in run_sweep(model(), evaluate, topk=(1, 2, 3), fusion=("gate",)))
    assert high > max(low, after) + 200


def test_counting_is_no_part_of_the_peak():
    def count() -> float:
        return float(np.ones(300_000_000, dtype=np.uint8)[-1])

    one: dict[str, Any] = {"topk": (1, 2), "fusion": ("gate",)}
    plain, counted = (
        [row.peak_memory_mb for row in run_sweep(model(), lambda _: Evaluated({}, 1.0, 1), **one, count=each)]
        for each in (None, count)
    )
    assert max(counted) < max(plain) + 100


def test_a_plain_model_is_evaluated_once():
    plain = nn.Conv2d(3, 3, 1)
    rows = list(run_sweep(plain, lambda _: Evaluated({}, 1.0, 1), topk=(4, 8), fusion=("gate",)))
    assert [(row.fusion, row.topk) for row in rows] == [("none", 0)]


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        ({"topk": (0, -1)}, ValueError, "topk must be ≥ 0"),
        ({"topk": (0, 1.5)}, TypeError, "topk must be an integer"),
        ({"fusion": ("add",)}, ValueError, "fusion must be one of"),
        ({"max_tokens": (0,)}, ValueError, "max_tokens must be ≥ 1"),
        ({}, ValueError, "has no gate"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(asked, kind, text):
    seen: list[Any] = []
    with pytest.raises(kind, match=text):
        run_sweep(model("refine"), seen.append, **(ALL | asked))  # type: ignore[arg-type]
    assert not seen


def test_a_model_without_a_gate_has_a_row_for_k_0():
    assert len(sweep(model("refine"), [], topk=(0,))) == 1
