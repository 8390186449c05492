"""YOLO models with PST for images of 1 and 4 channels: trained, validated, converted, exported, counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pst.integrations.ultralytics import YOLO, convert_checkpoint, gflops, read_checkpoint, sweep
from pst.integrations.ultralytics import export as exports
from pst.integrations.ultralytics.build import build


def data(root: Path, channels: int) -> Path:
    """data.yaml of four noise images, grey or RGBA, with ``channels:`` as Ultralytics reads it."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (64, 64, 4), dtype=np.uint8)
            Image.fromarray(pixels if channels == 4 else pixels[..., 0]).save(root / "images" / split / f"{i}.png")
            (root / "labels" / split / f"{i}.txt").write_text("0 .5 .5 .3 .3\n")
    text = f"path: {root}\ntrain: images/train\nval: images/val\nnames: [a, b]\nchannels: {channels}\n"
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4])
def test_a_trained_model_of_other_channels(channels: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    pytest.importorskip("onnxslim", reason="the export extra is not installed")
    pytest.importorskip("safetensors")
    pictures = data(tmp_path / "data", channels)
    options: dict[str, Any] = {"imgsz": 64, "device": "cpu", "workers": 0, "plots": False, "verbose": False}
    yolo = YOLO("yolo11n-pst.yaml")
    yolo.train(
        data=str(pictures), epochs=1, batch=2, pretrained=False, amp=False, project=str(tmp_path), name="run", **options
    )
    best = tmp_path / "run" / "weights" / "best.pt"
    rows = list(
        sweep(best, pictures, topk=[2], fusion=["gate"], imgsz=64, batch=2, device="cpu", project=tmp_path / "val")
    )
    assert [(row.topk, row.images) for row in rows] == [(2, 2)]

    converted = convert_checkpoint(best, tmp_path / "best.safetensors")
    assert converted.yaml["channels"] == channels
    convert_checkpoint(tmp_path / "best.safetensors", tmp_path / "back.pt")
    done = exports.export(tmp_path / "back.pt", "onnx", imgsz=64, topk=2, out=tmp_path)
    assert done.channels == channels
    assert {image.shape[1] for (image,) in exports.images(done)} == {channels}
    gap = exports.verify(best, done)
    assert gap.mean < 1e-7 * gap.scale
    assert gflops(YOLO(best), 64) != gflops(YOLO("yolo11n-pst.yaml"), 64)


@pytest.mark.parametrize(("key", "channels"), [("channels", 1), ("ch", 4)])
@pytest.mark.parametrize("name", ["yolo11n-pst.yaml", "yolo11n-cls-pst.yaml"])
def test_a_yaml_says_how_many_channels(name: str, key: str, channels: int, tmp_path: Path) -> None:
    own: Any = YOLO(name).model
    path = tmp_path / "mine.yaml"
    rows = {entry: value for entry, value in own.yaml.items() if entry != "channels"}
    path.write_text(yaml.safe_dump({**rows, key: channels}))
    yolo: Any = YOLO(path)
    model = yolo.model
    assert model.yaml["channels"] == channels
    assert model.task == yolo.task
    with torch.no_grad():
        model.eval()(torch.rand(1, channels, 64, 64))
    assert next(model.parameters()).shape[1] == channels
    assert gflops(model, 64) != gflops(own, 64)
    path.write_text(yaml.safe_dump({**rows, key: "1"}))
    with pytest.raises(ValueError, match=r"images of '1' channels: wanted an integer"):
        YOLO(path)


def test_an_rt_detr_follows_its_yaml_too(tmp_path: Path) -> None:
    own: Any = YOLO("rtdetr-l-pst.yaml").model.yaml
    path = tmp_path / "rtdetr-mine.yaml"
    path.write_text(yaml.safe_dump({**own, "channels": 1}))
    yolo: Any = YOLO(path)
    assert next(yolo.model.parameters()).shape[1] == 1
    assert yolo.task == yolo.model.task == "detect"


@pytest.mark.parametrize("wrong", [0, -1, "3", 1.5, True])
def test_a_checkpoint_of_impossible_channels_is_refused(wrong: Any, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from pst.integrations.ultralytics.portable import to_metadata
    from pst.io.checkpoints import save_safetensors

    yolo: Any = YOLO("yolo11n-cls-pst.yaml")
    yolo.model.names = {i: str(i) for i in range(1000)}
    yolo.save(tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert next(build(checkpoint, tmp_path / "a.pt").parameters()).shape[1] == 3
    broken = checkpoint._replace(yaml={**checkpoint.yaml, "channels": wrong})
    save_safetensors(checkpoint.state, tmp_path / "b.safetensors", to_metadata(broken))
    with pytest.raises(ValueError, match=r"b\.safetensors has a model for images of .* channels: wanted an integer"):
        read_checkpoint(tmp_path / "b.safetensors")
