"""What people do with a trained model every day, with the installed command and with the ``YOLO`` object.

The pictures are the two that ship in the ultralytics package; nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from ultralytics.utils import ASSETS, SETTINGS, YAML

import pst
from pst.cli import main
from pst.control.layers import find_attention
from pst.integrations import ultralytics as adapter
from pst.integrations.ultralytics import gflops

YOLO: Any = adapter.YOLO  # the host leaves its attributes untyped
PST = Path(sys.executable).with_name("pst")
PICTURES = [ASSETS / "bus.jpg", ASSETS / "zidane.jpg"]
TRAIN = {
    "imgsz": 64, "batch": 4, "device": "cpu", "workers": 0, "plots": False, "val": False, "pretrained": False,
    "amp": False, "verbose": False,
}  # fmt: skip
Command = Callable[..., str]


@pytest.fixture
def yolo_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host_log: list[str]) -> Command:
    """``pst yolo …`` in an empty folder; returns all that it logged."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> str:
        before = list(sys.argv)
        try:
            assert main(["yolo", *args]) == 0, host_log
        finally:
            sys.argv[:] = before  # in place, as the command changes it
            adapter.unregister()
        return "\n".join(host_log)

    return run


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames: a window that moves over one of the pictures."""
    full: Any = cv2.imread(str(PICTURES[0]))
    picture = cv2.resize(full, (200, 200))
    path = tmp_path_factory.mktemp("video") / "bus.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (128, 128))
    for i in range(6):
        writer.write(picture[4 * i : 4 * i + 128, 4 * i : 4 * i + 128])
    writer.release()
    return path


@pytest.fixture(scope="module")
def certain(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model made to see a box of either class nearly everywhere, and to listen to its attention."""
    yolo = YOLO(trained)
    with torch.no_grad():
        for level, branch in enumerate(yolo.model.model[-1].cv3):
            branch[-1].bias += 8
            branch[-1].bias[level % 2] += 1  # else training decides which class is seen
        for layer in find_attention(yolo.model).values():
            cast("Any", layer.proj).bn.weight *= 100  # one epoch leaves its part too small to change a box
    path = tmp_path_factory.mktemp("certain") / "certain.pt"
    yolo.save(path)
    return path


def predicting(project: Path) -> list[str]:
    return ["imgsz=64", "device=cpu", f"project={project}"]


def test_predict_on_a_folder_from_the_command_line(certain: Path, yolo_command: Command, tmp_path: Path) -> None:
    out = yolo_command("predict", f"model={certain}", f"source={ASSETS}", "save_txt=True", *predicting(tmp_path))
    assert all(str(picture) in out for picture in PICTURES)
    saved = tmp_path / "predict"
    assert {path.name for path in saved.glob("*.jpg")} == {"bus.jpg", "zidane.jpg"}
    for picture in PICTURES:
        boxes = np.loadtxt(saved / "labels" / f"{picture.stem}.txt", ndmin=2)
        assert boxes.shape[1] == 5
        assert ((boxes[:, 1:] >= 0) & (boxes[:, 1:] <= 1)).all()


def test_predict_on_a_video_from_the_command_line(
    certain: Path, video: Path, yolo_command: Command, tmp_path: Path
) -> None:
    out = yolo_command("predict", f"model={certain}", f"source={video}", *predicting(tmp_path))
    assert out.count(f"(frame {6}/6)") == 1
    capture = cv2.VideoCapture(str(next((tmp_path / "predict").glob("bus.*"))))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 6


def test_classes_keeps_only_those(certain: Path) -> None:
    yolo = YOLO(certain)
    predict = {"imgsz": 64, "device": "cpu", "verbose": False}
    all_classes = {int(c) for result in yolo.predict(PICTURES, **predict) for c in result.boxes.cls}
    assert all_classes == {0, 1}
    one = [result.boxes.cls for result in yolo.predict(PICTURES, classes=[1], **predict)]
    assert {int(c) for cls in one for c in cls} == {1}


def test_k_acts_on_every_kind_of_source(certain: Path, video: Path) -> None:
    """Pictures, arrays, a folder and a video give the same boxes for the same pixels, and k changes them."""
    yolo = YOLO(certain)
    predict = {"imgsz": 64, "device": "cpu", "verbose": False}
    by_k = []
    for k in (0, 4):
        pst.set_topk(yolo, k)
        from_path = yolo.predict(PICTURES[0], **predict)[0].boxes.data
        from_array = yolo.predict(cv2.imread(str(PICTURES[0])), **predict)[0].boxes.data
        torch.testing.assert_close(from_path, from_array)
        folder = {Path(result.path).name: result.boxes.data for result in yolo.predict(ASSETS, **predict)}
        assert folder.keys() == {"bus.jpg", "zidane.jpg"}
        assert len(yolo.predict(video, **predict)) == 6
        by_k.append(from_path)
    assert by_k[0].shape != by_k[1].shape or not torch.allclose(*by_k)


def test_track_a_video(certain: Path, video: Path, yolo_command: Command, tmp_path: Path) -> None:
    pytest.importorskip("lap", reason="Ultralytics installs it on the first tracking")
    yolo_command("track", f"model={certain}", f"source={video}", "save_txt=True", *predicting(tmp_path))
    labels = sorted((tmp_path / "track" / "labels").glob("*.txt"))
    assert len(labels) == 6
    rows = [[line.split() for line in path.read_text().splitlines()] for path in labels]
    tracks = [{row[5] for row in frame if len(row) == 6} for frame in rows]
    assert tracks[1] & tracks[5]  # a box keeps its number from frame to frame


def test_validate_from_the_command_line(trained: Path, boxes_data: Path, yolo_command: Command) -> None:
    val = ["imgsz=64", "batch=4", "workers=0", "plots=False", "device=cpu"]
    out = yolo_command("val", f"model={trained}", f"data={boxes_data}", *val)
    assert all(f" {name} " in out for name in ("all", "bright", "dark"))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["yaml", "pt"])
def test_tune_from_the_object(start: str, trained: Path, boxes_data: Path, tmp_path: Path) -> None:
    """Ultralytics trains every candidate in a process that never heard of pst."""
    yolo = YOLO("yolo11n-pst.yaml" if start == "yaml" else trained)
    project = {"project": str(tmp_path), "name": "tune"}
    yolo.tune(data=str(boxes_data), iterations=2, epochs=1, save=True, **project, **{**TRAIN, "val": True})
    weights = tmp_path / "tune" / "weights" / "best.pt"
    best: Any = YAML.load(str(tmp_path / "tune" / "best_hyperparameters.yaml"))
    assert best["lr0"] > 0
    tuned, expected = (sum(p.numel() for p in YOLO(path).model.parameters()) for path in (weights, trained))
    assert tuned == expected


@pytest.mark.filterwarnings("ignore")  # the host's exporter
def test_benchmark_of_one_format(
    trained: Path, boxes_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where it writes benchmarks.log
    yolo = YOLO(trained)
    pst.set_topk(yolo, 4)
    table = yolo.benchmark(data=str(boxes_data), imgsz=64, device="cpu", format="-", verbose=True)
    row = table.row(0, named=True)
    assert (row["Format"], row["Status❔"]) == ("PyTorch", "✅")
    assert 0 <= float(row["metrics/mAP50-95(B)"]) <= 1


def test_benchmark_from_the_command_line(
    trained: Path, boxes_data: Path, yolo_command: Command, tmp_path: Path
) -> None:
    yolo_command("benchmark", f"model={trained}", f"data={boxes_data}", "imgsz=64", "device=cpu", "format=-")
    row = next(line for line in (tmp_path / "benchmarks.log").read_text().splitlines() if "PyTorch" in line)
    assert "✅" in row


@pytest.mark.slow
def test_the_installed_command_trains_and_tensorboard_gets_the_losses(boxes_data: Path, tmp_path: Path) -> None:
    """In a process of its own, for tests are where Ultralytics leaves TensorBoard out."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tmp_path / "config"
    settings = config / SETTINGS.file.relative_to(os.environ["YOLO_CONFIG_DIR"])
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({**SETTINGS, "tensorboard": True}))
    testing = {"PYTEST_CURRENT_TEST", "GITHUB_ACTIONS"}  # what it knows tests by
    env = {name: value for name, value in os.environ.items() if name not in testing}
    env |= {"YOLO_CONFIG_DIR": str(config), "YOLO_OFFLINE": "true"}
    train = [f"{key}={value}" for key, value in {**TRAIN, "data": boxes_data, "project": tmp_path}.items()]
    command = [str(PST), "yolo", "detect", "train", "model=yolo11n-pst.yaml", "epochs=1", *train]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    out = done.stdout + done.stderr
    assert done.returncode == 0, out
    assert (tmp_path / "train" / "weights" / "last.pt").is_file()
    events = loader.EventAccumulator(str(tmp_path / "train")).Reload()
    assert {"train/box_loss", "train/cls_loss", "train/dfl_loss"} <= set(events.Tags()["scalars"])
    assert events.Scalars("train/box_loss")[0].value > 0
    assert "model graph visualization added" in out


@pytest.mark.parametrize("opener", ["pst", "ultralytics"])
@pytest.mark.usefixtures("registered")
def test_info_shows_operations_with_attention(opener: str, trained: Path) -> None:
    import ultralytics

    yolo = (YOLO if opener == "pst" else ultralytics.YOLO)("yolo11n-pst.yaml")
    _, parameters, gradients, shown = yolo.info()
    assert (parameters, gradients) == (2_617_232, 2_617_216)
    assert round(shown, 2) == 8.86
    pst.set_topk(yolo, 8)
    assert yolo.info()[3] == gflops(yolo) > shown
    assert yolo.info(imgsz=[320, 640])[3] < shown / 2  # attention grows with the square
    assert yolo.info(imgsz=320)[3] == gflops(yolo, 320)


@pytest.mark.usefixtures("registered")
def test_info_of_the_hosts_models_is_the_hosts() -> None:
    from ultralytics.utils.torch_utils import get_flops

    model = YOLO("yolo11n.yaml").model
    before = get_flops(model, 320)
    adapter.unregister()
    assert get_flops(model, 320) == before > 0
