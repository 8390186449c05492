"""The `YOLO` object from training to a fresh process: what a user does, in the order they do it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics

import pst
from pst.control import attention_layers
from pst.integrations import ultralytics as adapter
from pst.integrations.ultralytics import unregister

YOLO: Any = adapter.YOLO  # the host leaves its attributes untyped
VAL = {"imgsz": 64, "batch": 4, "device": "cpu", "plots": False, "verbose": False}


def topks(model: torch.nn.Module) -> set[int]:
    return {layer.topk for layer in attention_layers(model).values()}


def test_training_writes_finite_losses_and_all_weights_moved(trained: Path) -> None:
    with (trained.parents[1] / "results.csv").open() as f:
        row = {k.strip(): float(v) for k, v in next(csv.DictReader(f)).items()}
    assert all(0 < row[f"train/{name}_loss"] < 100 for name in ("box", "cls", "dfl"))
    assert topks(YOLO(trained)) == {0}


def test_set_topk_survives_val_predict_fuse_and_saving(trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    yolo = YOLO(trained)
    pst.set_topk(yolo, 8)
    yolo.val(data=str(boxes_data), project=str(tmp_path), **VAL)
    assert topks(yolo) == {8}
    image = boxes_data.parent / "images" / "val" / "0.png"
    with pst.record_selection(yolo) as selected:
        yolo.predict(image, imgsz=64, device="cpu", verbose=False)
    assert topks(yolo.predictor.model.model) == {8}
    assert {s[-1].index.shape[-1] for s in selected.values()} == {4, 8}  # of 2×2 and 4×4 coarse tokens
    yolo.fuse()
    assert topks(yolo) == {8}
    yolo.save(tmp_path / "saved.pt")
    assert topks(YOLO(tmp_path / "saved.pt")) == {8}
    assert topks(YOLO(trained)) == {0}


@pytest.mark.parametrize(
    "opener", [pytest.param("pst.integrations.ultralytics", marks=pytest.mark.slow), "ultralytics"]
)
def test_checkpoint_opens_and_trains_on_in_a_fresh_process(
    trained: Path, boxes_data: Path, tmp_path: Path, opener: str
) -> None:
    """Plain ``ultralytics.YOLO`` too: loading the checkpoint registers the plugin."""
    code = f"""
from {opener} import YOLO
yolo = YOLO({str(trained)!r})
import pst, torch
torch.manual_seed(0)
x = torch.rand(1, 3, 64, 64)
print(yolo.model.eval()(x)[0].double().sum().item())
pst.set_topk(yolo, 4)
print(yolo.model(x)[0].double().sum().item())
yolo.train(data={str(boxes_data)!r}, epochs=1, imgsz=64, batch=4, device="cpu", workers=0, plots=False, val=False,
           project={str(tmp_path)!r}, name="more", verbose=False)
"""
    out = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=True)
    sums = [float(line) for line in out.stdout.splitlines() if line.replace(".", "").replace("-", "").isdigit()]
    yolo = YOLO(trained)
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 64)
    for k, got in zip((0, 4), sums, strict=True):
        pst.set_topk(yolo, k)
        assert got == pytest.approx(yolo.model.eval()(x)[0].double().sum().item(), rel=1e-5)
    assert (tmp_path / "more" / "weights" / "last.pt").is_file()


def test_settings_reach_the_copy_that_a_yolo_object_predicts_with(trained: Path, boxes_data: Path) -> None:
    """Ultralytics keeps the model of its first predict call; switching k later must not leave that behind."""
    yolo = YOLO(trained)
    image = boxes_data.parent / "images" / "val" / "0.png"
    predict = {"imgsz": 64, "device": "cpu", "verbose": False}
    yolo.predict(image, **predict)
    copy = yolo.predictor.model.model
    pst.set_topk(yolo, 2)
    pst.set_fusion(yolo, "refine")
    assert {(a.topk, a.fusion) for a in attention_layers(copy).values()} == {(2, "refine")}
    with pst.use_topk(yolo, 3), pst.record_selection(yolo) as selected:
        yolo.predict(image, **predict)
    yolo.predict(image, **predict)
    assert yolo.predictor.model.model is copy
    assert {s.index.shape[-1] for records in selected.values() for s in records} == {3}
    assert all(selected.values())
    assert topks(copy) == {2}


def test_recording_reaches_a_copy_made_meanwhile_and_ends(trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    yolo = YOLO(trained)
    pst.set_topk(yolo, 2)
    with pst.record_selection(yolo) as selected:
        yolo.val(data=str(boxes_data), project=str(tmp_path), **VAL)
    counts = [len(records) for records in selected.values()]
    for records in selected.values():
        assert [s.index.shape[0] for s in records][-2:] == [4, 4]  # after the host's warm-up: two batches of four
    yolo.val(data=str(boxes_data), project=str(tmp_path), **VAL)
    assert [len(records) for records in selected.values()] == counts


def test_k_and_fusion_from_the_yaml_are_rebuilt_by_train(boxes_data: Path, tmp_path: Path) -> None:
    from pst.integrations.ultralytics import bundled_models

    text = bundled_models()["yolo11-pst.yaml"].read_text()
    for width in (512, 256):
        text = text.replace(f"PST, [{width}, 2, 0.5]", f"PST, [{width}, 2, 0.5, {{topk: 2, fusion: refine}}]")
    (tmp_path / "yolo11n-mine.yaml").write_text(text)
    yolo = YOLO(tmp_path / "yolo11n-mine.yaml")
    yolo.train(
        data=str(boxes_data), epochs=1, imgsz=64, batch=8, device="cpu", workers=0, plots=False, val=False,
        project=str(tmp_path), name="run", verbose=False,
    )  # fmt: skip
    reloaded = YOLO(tmp_path / "run" / "weights" / "last.pt")
    assert {(a.topk, a.fusion) for a in attention_layers(reloaded).values()} == {(2, "refine")}


def test_predict_with_more_tokens_than_there_are_equals_all(trained: Path, boxes_data: Path) -> None:
    yolo = YOLO(trained)
    image = boxes_data.parent / "images" / "val" / "1.png"
    out = []
    for k in (16, 10_000):
        pst.set_topk(yolo, k)
        out.append(yolo.predict(image, imgsz=64, device="cpu", conf=0.001, verbose=False)[0].boxes.data)
    torch.testing.assert_close(out[0], out[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")  # the host's exporter
@pytest.mark.parametrize("k", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_onnx_export_runs_and_agrees(trained: Path, tmp_path: Path, k: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    yolo = YOLO(trained)
    yolo.save(tmp_path / f"k{k}.pt")
    yolo = YOLO(tmp_path / f"k{k}.pt")
    pst.set_topk(yolo, k)
    path = yolo.export(format="onnx", imgsz=64, dynamic=True, simplify=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    yolo = YOLO(trained)
    pst.set_topk(yolo, k)
    for size in ((64, 64), (96, 128)):
        x = torch.rand(2, 3, *size)
        with torch.no_grad():
            expected = yolo.model.eval()(x)[0]
        got = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_subclass_is_the_hosts_class() -> None:
    assert issubclass(YOLO, ultralytics.YOLO)
    yolo = YOLO("yolo11n-pst.yaml")
    unregister()
    assert yolo.task == "detect"
    assert yolo.task_map["detect"]["model"] is type(yolo.model)
