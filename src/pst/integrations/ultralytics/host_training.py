"""What training does with k and fusion, and how the processes of multi-GPU training find the plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.utils.torch_utils import unwrap_model

from pst.control.layers import find_attention
from pst.integrations.ultralytics import guard
from pst.modules import PyramidSparseAttention, Settings


def train(original: Callable[..., Any], yolo: Any, *args: Any, **kwargs: Any) -> Any:
    """Ultralytics' ``Model.train`` (``original``), which rebuilds the model from its YAML, k and fusion included.

    So a model is trained with the k of its YAML: 0, coarse attention alone, unless a PST row has the option ``topk``.
    What was set on the object before, e.g. by `pst.set_topk`, is set on the trained model that the object then holds,
    also when training was interrupted. The files of the training keep the settings that they were trained with.
    """
    settings = _settings(yolo.model)
    try:
        return original(yolo, *args, **kwargs)
    finally:
        _apply(yolo.model, settings)


def resume(original: Callable[..., Any], trainer: Any, ckpt: Any) -> None:
    """Ultralytics' ``BaseTrainer.resume_training`` (``original``), which restores all but k and fusion.

    The resumed model and its average (EMA) go on with those of the interrupted run, be they its YAML's or not.
    """
    original(trainer, ckpt)
    if ckpt is not None and trainer.resume:
        for model in (unwrap_model(trainer.model), trainer.ema.ema):
            _apply(model, _settings(ckpt["ema"]))


def ddp_file(original: Callable[[Any], str], trainer: Any) -> str:
    """Ultralytics' ``generate_ddp_file`` (``original``), whose file then first registers the plugin and the protection.

    The workers of ``device=0,1`` run nothing but that file, and find a bundled YAML by its name only after that.
    """
    path = original(trainer)
    file = Path(path)
    lines = ["import sys", f"sys.path = {sys.path!r}"]
    lines += ["from pst.integrations.ultralytics import guard, register", "register()"]
    if guard.is_protected():
        lines.append(f"guard.protect_process({str(file.with_suffix('.pt'))!r})")
    file.write_text("\n".join([*lines, file.read_text(encoding="utf-8")]), encoding="utf-8")
    return path


def _settings(model: Any) -> list[Settings]:
    return [layer.settings for layer in _attention(model)]


def _apply(model: Any, settings: list[Settings]) -> None:
    """Set them layer by layer; a model of other layers, such as ``train(model=…)`` gives, is left as it is."""
    layers = _attention(model)
    if len(layers) == len(settings):
        for layer, own in zip(layers, settings, strict=True):
            layer.settings = own


def _attention(model: Any) -> list[PyramidSparseAttention]:
    """Its layers; none of a path, as a YOLO object of an exported file holds."""
    return [*find_attention(model).values()] if isinstance(model, nn.Module) else []
