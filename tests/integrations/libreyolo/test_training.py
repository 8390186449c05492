"""LibreYOLO's own trainer, and its own exports."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("libreyolo", reason="LibreYOLO is not installed")

from libreyolo import LibreYOLO, LibreYOLO9, LibreYOLO9P2
from PIL import Image

import pst
import tiny_data
from pst.control.layers import find_attention
from pst.integrations.libreyolo import LibreYOLO9PST, add_pst

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # the host's loss
RUN = {"batch": 4, "imgsz": 64, "device": "cpu", "workers": 0, "amp": False, "project": "runs"}


def topk(model: Any) -> list[int]:
    return [layer.topk for layer in find_attention(model.model).values()]


@pytest.mark.parametrize("family", [pytest.param(LibreYOLO9, marks=pytest.mark.slow), LibreYOLO9P2])
def test_two_epochs_then_a_third(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = str(tiny_data.yolo(tmp_path / "data", 4, 2) / "data.yaml")
    model: Any = add_pst(family(None, size="t", device="cpu", nb_classes=5), levels=[8], depth=2)
    pst.set_topk(model.model, 3)
    fused = {n: p.detach().clone() for n, p in model.model.named_parameters() if ".pst." in n}
    result = model.train(data, epochs=2, name="a", **RUN)
    assert np.isfinite(result["final_loss"])
    assert model.names == dict(enumerate(tiny_data.CLASSES))  # the data set's, and its number of classes
    last = tmp_path / "runs/a/weights/last.pt"
    content = torch.load(last, weights_only=True)
    assert content["model_family"] == type(model).FAMILY
    assert content["pst"]["levels"] == [8]
    assert not [n for n, p in fused.items() if torch.equal(p, content["train_model"][n])]  # all of it was trained
    again: Any = LibreYOLO(str(last), device="cpu")
    assert (type(again), topk(again), again.names) == (type(model), [3, 3], model.names)
    if family is LibreYOLO9P2:
        return
    again.train(data, epochs=3, resume=True, device="cpu", workers=0)
    assert torch.load(last, weights_only=True)["epoch"] == 2  # from 0 on
    assert topk(again) == [3, 3]
    assert type(again(Image.new("RGB", (64, 64)), imgsz=64).boxes.xyxy).__name__ == "Tensor"


def test_transfer_from_a_checkpoint_of_the_host(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    data = str(tiny_data.yolo(tmp_path / "data", 4, 2) / "data.yaml")
    LibreYOLO9(None, size="t", device="cpu", nb_classes=3).save("host.pt")
    model = LibreYOLO9PST(None, "t", device="cpu", nb_classes=3)
    with caplog.at_level(logging.INFO, logger="libreyolo"):
        model.train(data, epochs=1, name="b", pretrained="host.pt", lr0=0.0, aux_weight=0.0, **RUN)
    state, kept = model.model.state_dict(), torch.load("host.pt", weights_only=True)["model"]
    learnt = [n for n, _ in model.model.named_parameters() if n in kept]
    assert len(learnt) > 400
    assert all(torch.equal(state[n], kept[n]) for n in learnt)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_onnx_runs_and_finds_what_the_model_finds(learned, four, tmp_path, monkeypatch):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    model, _ = learned
    path = Path(model.export(imgsz=64, simplify=False))
    assert path.name == "LibreYOLO9PSTt.onnx"
    session = ort.InferenceSession(path)
    images, _ = four
    for batch in (images[:1], images[1:], images.flip(-1)):  # other images and sizes of batch than the one traced
        with torch.no_grad():
            wanted = model.model(batch)["predictions"]
        (found,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        np.testing.assert_allclose(found, wanted, atol=2e-3, rtol=1e-4)
    runtime = LibreYOLO(str(path), device="cpu")
    pixels = Image.fromarray((images[3].permute(1, 2, 0) * 255).byte().numpy()).resize(
        (128, 128), Image.Resampling.NEAREST
    )
    boxes, same = (m(pixels, imgsz=64, conf=0.3).boxes for m in (model, runtime))
    assert boxes.cls.tolist() == same.cls.tolist() != []
    np.testing.assert_allclose(np.asarray(boxes.xyxy), np.asarray(same.xyxy), atol=0.1)
