"""Calibration, selection rules and stochastic k with a YOLO object: predictor, fuse, checkpoints, training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pst
from pst.control import attention_layers
from pst.functional.selection import Window
from pst.integrations import ultralytics as adapter
from pst.modules import hooks
from tensors import assert_close

YOLO: Any = adapter.YOLO  # the host leaves its attributes untyped


@pytest.fixture
def yolo() -> Any:
    """With k = 4, weights and statistics at random, and a predictor that already has its copy."""
    yolo = YOLO("yolo11n-pst.yaml")
    with torch.no_grad():
        for layer in attention_layers(yolo).values():
            for m in layer.modules():
                if isinstance(m, torch.nn.BatchNorm2d) and m.running_var is not None:
                    m.weight.uniform_(2, 4)
                    m.running_var.uniform_(0.01, 0.1)
    pst.set_topk(yolo, 4)
    yolo.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, device="cpu", verbose=False)
    return yolo


@torch.no_grad()
def outputs(model: Any, image: torch.Tensor) -> torch.Tensor:
    """Of the PST layers, flattened."""
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda *args: seen.append(args[2])) for layer in attention_layers(model).values()
    ]
    model.eval()(image)
    for hook in hooks:
        hook.remove()
    return torch.cat([t.flatten() for t in seen]).float()


def test_what_is_changed_on_the_object_reaches_its_predictors_copy(yolo: Any) -> None:
    image = torch.rand(1, 3, 64, 64)
    copied = yolo.predictor.model.model
    before = outputs(copied, image)
    for change in (
        lambda: pst.calibrate(yolo, [torch.rand(2, 3, 64, 64), torch.rand(1, 3, 64, 96)]),
        lambda: pst.set_selection(yolo, Window(grid=2)),
        lambda: pst.set_gate(yolo, 0.9),
        lambda: pst.uncalibrate(yolo),
    ):
        change()
        after = outputs(copied, image)
        assert (after - before).abs().max() > 1e-3 * before.abs().max()
        assert_close(after, outputs(yolo.model, image), 1e-3)
        before = after


def test_checkpoints_and_fuse_keep_statistics_rule_and_draws(yolo: Any, tmp_path: Path, monkeypatch: Any) -> None:
    image = torch.rand(1, 3, 64, 64)
    pst.set_selection(yolo, Window(grid=2))
    pst.calibrate(yolo, [torch.rand(2, 3, 64, 64)])
    expected = outputs(copy.deepcopy(yolo.model).half().float(), image)  # a checkpoint is stored in half precision
    handle = pst.stochastic_topk(yolo.model, (2,), share=1.0)
    yolo.save(tmp_path / "saved.pt")
    handle.remove()
    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "1")
    loaded = YOLO(tmp_path / "saved.pt")
    assert {layer.selection for layer in attention_layers(loaded).values()} == {Window(grid=2)}
    assert_close(outputs(loaded.model, image), expected, 1e-5)
    loaded.fuse()
    assert_close(outputs(loaded.model, image), expected, 1e-3)


HOOKS: dict[type, Any] = {
    hooks.DrawTopk: lambda model: pst.stochastic_topk(model, (2,)),
    hooks.DrawMaxTokens: lambda model: pst.stochastic_max_tokens(model, (4,)),
    hooks.FreezeNorms: pst.freeze_except_gate,
}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_checkpoint_may_hold_every_hook(hook: type, tmp_path: Path, monkeypatch: Any) -> None:
    yolo = YOLO("yolo11n-pst.yaml")
    HOOKS[hook](yolo.model)
    yolo.save(tmp_path / "saved.pt")
    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "1")
    assert hook in {type(each) for each in yolo.model._forward_pre_hooks.values()}
    assert attention_layers(YOLO(tmp_path / "saved.pt"))


def test_the_hooks_above_are_all() -> None:
    own = {c for c in vars(hooks).values() if isinstance(c, type) and c.__module__ == hooks.__name__}
    assert own == {hooks.Draw, *HOOKS}  # the first is what two others share


@pytest.mark.slow
def test_training_with_stochastic_k_and_tracked_statistics(boxes_data: Path, tmp_path: Path) -> None:
    yolo, ks = YOLO("yolo11n-pst.yaml"), []
    pst.set_selection(yolo, "nucleus")

    def start(trainer: Any) -> None:
        for model in (trainer.model, trainer.ema.ema):
            pst.track_fine_statistics(model)
        pst.stochastic_topk(trainer.model, (2, 3), share=1.0)

    def step(trainer: Any) -> None:
        ks.append([layer.drawn_topk for layer in attention_layers(trainer.model).values()])

    yolo.add_callback("on_train_start", start)
    yolo.add_callback("on_train_batch_end", step)
    yolo.train(
        data=str(boxes_data), epochs=1, imgsz=64, batch=4, device="cpu", workers=0, project=str(tmp_path), name="run",
        plots=False, pretrained=False, verbose=False, amp=False, seed=0,
    )  # fmt: skip
    assert len(ks) == 2
    assert all(k in ([2, 2], [3, 3]) for k in ks)
    assert {layer.selection for layer in attention_layers(yolo).values()} == {"nucleus"}
    best = YOLO(tmp_path / "run" / "weights" / "last.pt")
    for layer in attention_layers(best).values():
        assert layer.topk == 0
        assert layer.drawn_topk is None
        statistics: Any = layer.fine_statistics
        assert statistics.mean.isfinite().all()
        assert statistics.mean.abs().max() > 0  # it started from 0
