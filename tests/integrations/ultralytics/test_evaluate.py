"""`sweep`: one validation for every k and fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pst
from messages import says
from pst.integrations import ultralytics as adapter
from pst.integrations.ultralytics import sweep

YOLO: Any = adapter.YOLO  # the host leaves its attributes untyped

ARGS = {"imgsz": 64, "batch": 4, "device": "cpu"}


def test_rows_are_those_of_single_validations_k_0_first(trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    rows = list(sweep(trained, boxes_data, topk=(2, 0), project=tmp_path, **ARGS))
    assert [(r.fusion, r.topk, r.images) for r in rows] == [("none", 0, 8), ("gate", 2, 8), ("refine", 2, 8)]
    for row in rows:
        yolo = YOLO(trained)
        pst.set_topk(yolo, row.topk)
        if row.topk:
            pst.set_fusion(yolo, row.fusion)  # type: ignore[arg-type]
        box = yolo.val(data=str(boxes_data), plots=False, verbose=False, project=str(tmp_path), **ARGS).box
        assert (row.map50_95, row.map50) == pytest.approx((float(box.map), float(box.map50)), abs=1e-9)
        assert row.latency_ms > 0
        assert row.peak_memory_mb > 100  # the interpreter and torch alone hold more


def test_the_size_is_that_of_the_training_and_nothing_is_left_lying_about(
    trained: Path, boxes_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (own,) = sweep(trained, boxes_data, topk=(0,), project="here", batch=4, device="cpu")
    (given,) = sweep(trained, boxes_data, topk=(0,), project="here", **ARGS)
    assert own.imgsz == given.imgsz == 64
    assert own.gflops == given.gflops
    assert (own.map50_95, own.map50) == (given.map50_95, given.map50)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert {path.name for path in tmp_path.rglob("*")} <= {"here"}


def test_bad_arguments_fail_before_any_work(trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nothing\.pt"):
        sweep(tmp_path / "nothing.pt", boxes_data)
    with pytest.raises(ValueError, match="topk must be ≥ 0"):
        sweep(trained, boxes_data, topk=(0, -1))
    with pytest.raises(ValueError, match="fusion must be one of"):
        sweep(trained, boxes_data, fusion=("mean",))  # type: ignore[arg-type]
    without = plain(tmp_path)
    with pytest.raises(ValueError, match=says(f"{without} holds no PST layer … use pst yolo val … model={without}")):
        sweep(without, boxes_data)


def test_data_of_another_number_of_classes_are_refused_before_any_work(
    trained: Path, boxes_data: Path, tmp_path: Path
) -> None:
    data = renamed(boxes_data, tmp_path, "RBC", "WBC", "Platelets")
    own = r"the model has 2 classes \(bright, dark\)"
    with pytest.raises(ValueError, match=own + r", the data 3 \(RBC, WBC, Platelets\)"):
        sweep(trained, data, project=tmp_path / "out", **ARGS)
    assert not (tmp_path / "out").exists()
    (row,) = sweep(trained, data, topk=(0,), project=tmp_path / "out", single_cls=True, **ARGS)
    assert row.images == 8


def test_other_names_of_as_many_classes_are_said(
    trained: Path, boxes_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sweep(trained, boxes_data, project=tmp_path, **ARGS)
    assert not caplog.records
    sweep(trained, renamed(boxes_data, tmp_path, "dark", "bright"), project=tmp_path, **ARGS)
    (record,) = caplog.records
    assert "the model has the classes bright, dark, the data dark, bright" in record.getMessage()


def renamed(data: Path, folder: Path, *names: str) -> Path:
    file = folder / "data.yaml"
    splits = "\n".join(f"{split}: {data.parent / 'images' / split}" for split in ("train", "val"))
    file.write_text(f"{splits}\nnames: [{', '.join(names)}]\n")
    return file


def plain(folder: Path) -> Path:
    file = folder / "plain.pt"
    YOLO("yolo11n.yaml").save(file)
    return file
