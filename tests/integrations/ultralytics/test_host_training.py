"""k, fusion, optimizer and EMA through training, interruption and resumption."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
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

YOLO: Any = adapter.YOLO  # the host leaves its attributes untyped
TRAIN = {
    "imgsz": 64, "batch": 4, "device": "cpu", "workers": 0, "plots": False, "val": False, "pretrained": False,
    "amp": False, "verbose": False,
}  # fmt: skip


def settings(model: Any) -> set[tuple[int, str]]:
    return {(layer.topk, layer.fusion) for layer in attention_layers(model).values()}


EVENTS = [
    "on_pretrain_routine_start", "on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end",
    "on_model_save", "on_train_end",
]  # fmt: skip


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("opener", "start"), [pytest.param(YOLO, "yaml", marks=pytest.mark.slow), (ultralytics.YOLO, "pt")]
)
def test_training_is_coarse_and_gives_each_layers_k_and_fusion_back(
    opener: Any, start: str, trained: Path, boxes_data: Path, tmp_path: Path
) -> None:
    yolo = opener("yolo11n-pst.yaml" if start == "yaml" else trained)
    pst.set_fusion(yolo, "refine")
    for k, layer in enumerate(attention_layers(yolo).values()):
        layer.topk = k
    events: list[str] = []
    during: list[set[tuple[int, str]]] = []
    for event in EVENTS:
        yolo.add_callback(event, lambda trainer, event=event: events.append(event))
    yolo.add_callback("on_train_batch_end", lambda trainer: during.append(settings(trainer.model)))
    yolo.train(data=str(boxes_data), epochs=1, project=str(tmp_path), name="run", **TRAIN)
    assert list(dict.fromkeys(events)) == EVENTS
    assert during == [{(0, "gate")}] * 2
    assert [(layer.topk, layer.fusion) for layer in attention_layers(yolo).values()] == [(0, "refine"), (1, "refine")]
    assert settings(YOLO(tmp_path / "run" / "weights" / "last.pt")) == {(0, "gate")}


def test_a_training_that_fails_gives_k_back(trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    def fail(trainer: Any) -> None:
        assert settings(trainer.model) == {(0, "gate")}
        raise KeyboardInterrupt

    yolo = YOLO(trained)
    pst.set_topk(yolo, 8)
    yolo.add_callback("on_train_batch_end", fail)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(data=str(boxes_data), epochs=1, project=str(tmp_path), name="run", **TRAIN)
    assert settings(yolo) == {(8, "gate")}


def test_another_model_given_to_train_is_left_alone(trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    """``train(model=…)`` starts from a YAML without PST layers."""
    yolo = YOLO("yolo11n-pst.yaml")
    pst.set_topk(yolo, 8)
    yolo.train(model="yolo11n.yaml", data=str(boxes_data), epochs=1, project=str(tmp_path), name="run", **TRAIN)
    with pytest.raises(ValueError, match="no PST layer"):
        attention_layers(yolo)


KILLED = """
import os, signal
import pst
from pst.integrations.ultralytics import YOLO

def fine(trainer):  # the k of the run, other than its YAML's
    pst.set_topk(trainer.model, 3)
    pst.set_topk(trainer.ema.ema, 3)

def kill(trainer):
    if trainer.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)

yolo = YOLO("yolo11n-pst.yaml")
yolo.add_callback("on_train_start", fine)
yolo.add_callback("on_train_batch_end", kill)
yolo.train(epochs=2, nbs=4, optimizer="SGD", **{args!r})
"""

RESUMED = """
import json, torch
import pst
from {opener} import YOLO
from pst.control import attention_layers

def ks(model):
    return sorted({{layer.topk for layer in attention_layers(model).values()}})

seen = {{"epochs": []}}

def start(trainer):
    seen["start_epoch"] = trainer.start_epoch
    seen["updates"] = trainer.ema.updates
    seen["momentum"] = sum(float(s["momentum_buffer"].abs().sum()) for s in trainer.optimizer.state.values())
    seen["ema"] = sum(float(v.double().sum()) for v in trainer.ema.ema.state_dict().values())
    seen["k"] = [ks(trainer.model), ks(trainer.ema.ema)]

yolo = YOLO({last!r})
yolo.add_callback("on_train_start", start)
yolo.add_callback("on_train_epoch_start", lambda trainer: seen["epochs"].append(trainer.epoch))
yolo.train(resume=True, save_dir={folder!r})
seen["k_after"] = ks(yolo.model)
seen["updates_after"] = yolo.trainer.ema.updates
print("SEEN", json.dumps(seen))
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def killed(boxes_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training that was killed in its second epoch."""
    project = tmp_path_factory.mktemp("killed")
    done = run(KILLED.format(args={**TRAIN, "data": str(boxes_data), "project": str(project), "name": "run"}))
    assert done.returncode == -signal.SIGKILL, done.stderr
    return project / "run"


@pytest.mark.slow
@pytest.mark.parametrize("opener", ["pst.integrations.ultralytics", "ultralytics"])
def test_killed_run_resumes_where_it_was(opener: str, killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "run")
    last = tmp_path / "run" / "weights" / "last.pt"
    checkpoint = torch.load(last, weights_only=False)
    assert checkpoint["epoch"] == 0
    assert checkpoint["updates"] == 2  # an epoch of two batches

    resumed = run(RESUMED.format(opener=opener, last=str(last), folder=str(tmp_path / "run")))
    assert resumed.returncode == 0, resumed.stderr
    seen = json.loads(resumed.stdout.partition("SEEN")[2])
    assert (seen["start_epoch"], seen["epochs"]) == (1, [1])
    assert (seen["updates"], seen["updates_after"]) == (2, 4)
    buffers = [state["momentum_buffer"] for state in checkpoint["optimizer"]["state"].values()]
    assert seen["momentum"] == pytest.approx(sum(float(b.float().abs().sum()) for b in buffers), rel=1e-5)
    assert seen["momentum"] > 0
    average = checkpoint["ema"].float().state_dict().values()
    assert seen["ema"] == pytest.approx(sum(float(v.double().sum()) for v in average), rel=1e-9)
    assert seen["k"] == [[3], [3]]
    assert seen["k_after"] == [3]
    with (tmp_path / "run" / "results.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [1, 2]
    assert settings(YOLO(last)) == {(3, "gate")}
