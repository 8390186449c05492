"""What studies are run with: quiet training, and evaluation on cached images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pst
from lab.study.bootstrap import average_precision
from lab.study.matching import match
from lab.study.runners.yolo_bfloat16 import Bfloat16Detector, train_in_bfloat16
from lab.study.runners.yolo_cached_val import CachedValidation
from lab.study.runners.yolo_cells import CellTrainer, batches, tune_gate
from pst.integrations.ultralytics.plugin import register


def overrides(data: Path, folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": "yolo11n-pst.yaml", "data": str(data), "save_dir": str(folder), "imgsz": 64, "epochs": 3, "batch": 4,
        "device": "cpu", "workers": 0, "amp": False, "seed": 0, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, boxes_data: Path) -> CellTrainer:
    """A training that was interrupted after two of three epochs, and gone on with."""
    folder = tmp_path_factory.mktemp("cell")

    class Stop(Exception):
        pass

    def stop(done: int, epochs: int) -> None:
        assert epochs == 3
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        CellTrainer(overrides(boxes_data, folder), prepare=pst.track_fine_statistics, on_epoch=stop).train()
    trainer = CellTrainer(overrides(boxes_data, folder), prepare=pst.track_fine_statistics)
    assert len(trainer.log) == 2
    trainer.train()
    return trainer


def test_an_interrupted_training_ends_with_all_epochs_and_nothing_but_its_checkpoint(run):
    assert [sorted(epoch) for epoch in run.log] == [["loss", "seconds"]] * 3
    assert all(torch.isfinite(torch.tensor(epoch["loss"])) for epoch in run.log)
    assert [p.name for p in run.wdir.iterdir()] == ["last.pt"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, boxes_data: Path) -> CellTrainer:
    """A training without anything else."""
    trainer = CellTrainer(overrides(boxes_data, tmp_path_factory.mktemp("plain")), prepare=pst.track_fine_statistics)
    trainer.train()
    return trainer


def test_validating_on_the_way_is_recorded_and_changes_no_weight(plain, boxes_data, tmp_path):
    def value(model: nn.Module) -> float:
        assert not model.training
        for p in model.parameters():
            p.data.zero_()  # it is a copy
        return 0.25

    watched: dict[str, Any] = {"prepare": pst.track_fine_statistics, "validate": value}
    trainer = CellTrainer(overrides(boxes_data, tmp_path / "watched"), val_every=2, **watched)
    trainer.train()
    assert trainer.curve == [(2, 0.25), (3, 0.25)]
    assert plain.curve == []
    logged = json.loads(trainer.log_path.read_text())
    assert [epoch.get("value") for epoch in logged] == [None, 0.25, 0.25]
    same = trainer.trained().state_dict()
    for name, t in plain.trained().state_dict().items():
        assert torch.equal(same[name], t), name
    with pytest.raises(ValueError, match="val_every is a number of epochs, at least 1, got 0"):
        CellTrainer(overrides(boxes_data, tmp_path / "never"), val_every=0, **watched)


def test_training_in_bfloat16_on_a_cpu_follows_the_one_in_float32(plain, boxes_data, tmp_path):
    """Same seed, same batches: the losses stay close, and weights and evaluation are in float32."""
    trainer = CellTrainer(overrides(boxes_data, tmp_path, amp="bf16"), prepare=pst.track_fine_statistics)
    trainer.train()
    half, whole = (torch.tensor([epoch["loss"] for epoch in t.log]) for t in (trainer, plain))
    torch.testing.assert_close(half, whole, rtol=0.1, atol=0)
    assert not torch.equal(half, whole)
    for t in (trainer, plain):
        model = t.trained()
        assert isinstance(model, Bfloat16Detector) == (t is trainer)
        assert {v.dtype for v in model.state_dict().values()} == {torch.float32, torch.int64}
        assert model(torch.rand(1, 3, 64, 64))[0].dtype == torch.float32


def test_bfloat16_is_for_the_layers_of_a_training_pass():
    """Their outputs are bfloat16, the head's are given back in float32 and close to the exact ones; eval is exact."""
    from ultralytics.nn.tasks import DetectionModel

    register()
    torch.manual_seed(0)
    images = torch.rand(2, 3, 128, 128)
    exact, half = (DetectionModel("yolo11n-pst.yaml", verbose=False).eval() for _ in range(2))
    half.load_state_dict(exact.state_dict())
    train_in_bfloat16(half)
    dtypes: list[torch.dtype] = []
    rows: Any = half.model
    rows[13].register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    torch.testing.assert_close(half(images)[0], exact(images)[0], rtol=1e-4, atol=1e-4)
    wanted, got = exact.train()(images), half.train()(images)
    assert dtypes == [torch.float32, torch.bfloat16]
    for name in ("scores", "boxes"):
        assert got[name].dtype == torch.float32
        assert 0 < (got[name] - wanted[name]).norm() < 0.03 * wanted[name].norm()
    with pytest.raises(TypeError, match="is for a DetectionModel, got Bfloat16Detector: use amp: false"):
        train_in_bfloat16(half)


def test_a_finished_training_is_not_gone_on_with(run, boxes_data):
    again = CellTrainer(overrides(boxes_data, run.save_dir))
    assert not again.resume
    assert again.log == []


def test_what_prepare_made_is_in_the_averaged_model_of_a_resumed_training(run):
    layers = [m for m in run.trained().modules() if isinstance(m, pst.PyramidSparseAttention)]
    for layer in layers:
        assert layer.fine_statistics is not None
        norm: Any = layer.kv.bn
        assert not torch.equal(layer.fine_statistics.mean, norm.running_mean)
        assert layer.fine_statistics.var.dtype == torch.float32
        assert not layer.training


def answers(images: CachedValidation) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook that knows the images and answers with boxes made for the purpose, (B, 4 + 2, 32).

    Of half of the objects: an exact copy, and its score is the highest and the same for all. Of every object: noisy
    copies with scores of their own. Around it: small boxes that match nothing, with one of six scores. So there are
    ties, but none between a right and a wrong detection of one class: there the host's order is NumPy's affair.
    """
    rng = np.random.default_rng(0)
    known: dict[int, Tensor] = {}
    for i, image in enumerate(torch.cat(images.batches)):
        corners = images.box[i].numpy()
        boxes, scores = np.zeros((32, 4)), np.zeros((32, 2))
        noise = rng.normal(0, np.linspace(0, 4, 16)[:, None], (16, 4))
        boxes[:16] = np.concatenate([(corners[:2] + corners[2:]) / 2, corners[2:] - corners[:2]]) + noise
        scores[:16, images.label[i]] = [0.9 if i % 4 < 2 else 0, *rng.uniform(0.1, 0.8, 15)]
        boxes[16:] = np.concatenate([rng.uniform(4, 60, (16, 2)), rng.uniform(3, 6, (16, 2))], 1)
        scores[16:] = rng.integers(0, 6, (16, 2)) / 10
        known[int(image.sum())] = torch.from_numpy(np.concatenate([boxes, scores], 1).T).float()

    def answer(model: nn.Module, args: Any, output: Any) -> Any:
        if args[0].is_meta:  # the host counts operations
            return output
        return torch.stack([known[int((255 * image).round().sum())] for image in args[0]])

    return answer


def test_the_figure_is_that_of_val(boxes_data, tmp_path):
    """Cached images, this project's matching and its average precision against YOLO.val, ties included."""
    from pst.integrations.ultralytics import YOLO

    yolo = YOLO("yolo11n-pst.yaml")
    images = CachedValidation(boxes_data, imgsz=64, batch=4)
    model: Any = yolo.model
    model.register_forward_hook(answers(images))
    found, milliseconds = images.predict(model.float().eval())
    detections, _ = match(found, images.box, images.label, images.image)
    got = average_precision(detections, torch.ones(1, len(images), dtype=torch.float64))
    metrics: Any = yolo.val(
        data=str(boxes_data), imgsz=64, batch=4, device="cpu", plots=False, workers=0, project=str(tmp_path)
    )
    assert len(detections.score.unique()) < 0.7 * len(detections.score)
    assert 0.2 < metrics.box.map < metrics.box.map50 < 0.9
    np.testing.assert_allclose(got.mean(), metrics.box.map, rtol=0, atol=1e-9)
    np.testing.assert_allclose(got[0, 0], metrics.box.map50, rtol=0, atol=1e-9)
    assert milliseconds > 0


def test_the_cached_set_knows_boxes_and_sizes(boxes_data):
    images = CachedValidation(boxes_data, imgsz=64, batch=3)
    assert len(images) == 8
    assert images.image.tolist() == list(range(8))
    assert images.label.tolist() == [0, 1] * 4
    sides = images.box[:, 2:] - images.box[:, :2]
    torch.testing.assert_close(sides, torch.full_like(sides, 24.0), rtol=0, atol=0.01)
    torch.testing.assert_close(images.side, torch.full((8,), 64.0))


def test_as_many_detections_are_kept_as_the_fullest_image_has_boxes(boxes_data, tmp_path):
    root = tmp_path / "crowd"
    shutil.copytree(boxes_data.parent, root, ignore=shutil.ignore_patterns("*.cache"))
    crowd = [f"0 {0.02 + 0.05 * (i % 19):.4f} {0.02 + 0.05 * (i // 19):.4f} 0.04 0.04" for i in range(301)]
    (root / "labels" / "val" / "5.txt").write_text("\n".join(crowd) + "\n")
    data = root / "data.yaml"
    data.write_text(data.read_text().replace(str(boxes_data.parent), str(root)))
    assert CachedValidation(data, imgsz=64).max_detections == 301
    assert CachedValidation(boxes_data, imgsz=64).max_detections == 300


def test_tuning_the_gate_changes_the_gate_alone(run, boxes_data, tmp_path):
    model = run.trained()
    pst.set_topk(model, 2)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.train()
    with pst.freeze_except_gate(model):
        data = batches(model, overrides(boxes_data, tmp_path / "tuned"), seed=0)
        loss = tune_gate(model, pst.gate_parameters(model), data, 0.01)
    assert loss > 0
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed
    assert all(".gate." in name for name in changed)


def test_batches_are_drawn_from_the_seed(run, boxes_data, tmp_path):
    drawn = [
        torch.cat([b["img"] for b in batches(run.trained(), overrides(boxes_data, tmp_path / str(i)), seed=seed)])
        for i, seed in enumerate((3, 3, 4))
    ]
    assert drawn[0].shape == (8, 3, 64, 64)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
