"""Multi-GPU training, as far as it goes without GPUs: the launch file, and the model in two gloo processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.dist import ddp_cleanup

import ddp_step
import pst
from pst.integrations import ultralytics as adapter
from pst.integrations.ultralytics import register, unregister

YOLO: Any = adapter.YOLO  # the host leaves its attributes untyped
TRAIN = {
    "epochs": 1, "imgsz": 64, "batch": 4, "device": "cpu", "workers": 0, "plots": False, "pretrained": False,
    "amp": False, "verbose": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cloudpickle() -> None:
    pytest.importorskip("cloudpickle", reason="Ultralytics installs it on the first multi-GPU training")


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("start", ["yaml", "pt"])
def test_launch_file_trains_in_a_fresh_process(start: str, trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    """The process runs nothing but what Ultralytics writes: state and script, with ``pst`` imported by neither."""
    from ultralytics.utils import dist

    trainer: Any = DetectionTrainer(
        overrides={
            **TRAIN,
            "model": "yolo11n-pst.yaml" if start == "yaml" else str(trained),
            "data": str(boxes_data),
            "project": str(tmp_path),
            "name": "run",
        }
    )
    if start == "pt":  # as Model.train does for a model that it has opened
        model = YOLO(trained).model
        trainer.model = trainer.get_model(weights=model, cfg=model.yaml)
    launch = dist.generate_ddp_file(trainer)
    try:
        subprocess.run([sys.executable, launch], env=dict(os.environ), cwd=tmp_path, check=True, timeout=900)
    finally:
        ddp_cleanup(trainer, launch)
    assert not Path(launch).exists()
    layers = YOLO(trainer.last).model.model
    assert [layer.type.rpartition(".")[2] for layer in layers].count("PSTRow") == 2
    assert (tmp_path / "run" / "results.csv").read_text().count("\n") == 2  # header, one epoch


@pytest.mark.slow
@pytest.mark.parametrize(("opener", "start"), [("pst", "yaml"), ("ultralytics", "yaml"), ("ultralytics", "pt")])
def test_two_processes_train_as_ultralytics_launches_them(
    opener: str, start: str, trained: Path, boxes_data: Path, tmp_path: Path
) -> None:
    """``torch.distributed.run`` on the generated file: samplers, gradients, EMA, validation, checkpoint."""
    from ddp_trainer import CpuTrainer

    register()
    try:
        yolo: Any = (YOLO if opener == "pst" else ultralytics.YOLO)("yolo11n-pst.yaml" if start == "yaml" else trained)
        pst.set_topk(yolo, 4)
        yolo.train(trainer=CpuTrainer, data=str(boxes_data), project=str(tmp_path), name="run", **TRAIN)
    finally:
        unregister()
    assert (tmp_path / "run" / "results.csv").read_text().count("\n") == 2
    checkpoint = torch.load(tmp_path / "run" / "weights" / "last.pt", weights_only=False)
    assert checkpoint["train_args"]["epochs"] == 1
    assert {layer.topk for layer in pst.control.attention_layers(checkpoint["model"]).values()} == {0}
    assert {layer.topk for layer in pst.control.attention_layers(yolo).values()} == {4}


@pytest.mark.parametrize("backend", ["none", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_both_ranks_step_to_the_same_weights_and_every_parameter_has_a_gradient(backend: str, tmp_path: Path) -> None:
    script = ddp_step.__file__
    outs = [tmp_path / f"{rank}.pt" for rank in (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(tmp_path / "rendezvous"), "0,8", backend, str(out)],
            env=dict(os.environ), stderr=subprocess.PIPE, text=True,
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=900)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    first, second = (torch.load(out) for out in outs)
    assert list(first) == list(second) == [0, 8]
    for topk in first:
        one, other = first[topk], second[topk]
        assert one["without_gradient"] == other["without_gradient"] == []
        assert one["weights"].keys() == other["weights"].keys()
        assert all(torch.equal(w, other["weights"][name]) for name, w in one["weights"].items())
        ours = {name for name in one["weights"] if name.startswith(("model.11.", "model.14."))}
        idle = {name for name in ours if ".gate." in name and topk == 0}
        assert ours - set(one["moved"]) == idle
