"""Checkpoints for tests: in the format of the PST authors' fork, hand-written, and malicious."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

HOME = "ultralytics.nn.modules.block"  # where the authors' fork keeps its layers


class Call:
    """Unpickles as ``function(*args)``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def write_archive(path: Path, pickled: bytes, **records: bytes) -> Path:
    """A file of ``torch.save`` with this pickle and more records, e.g. ``byteorder=b"big"``."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": pickled, "version": b"3\n", **records}.items():
            archive.writestr(f"archive/{name}", data)
    return path


def authors_checkpoint(model: nn.Module, **entries: Any) -> dict[str, Any]:
    """What the authors' fork saves of an Ultralytics model with PST layers; pickle it inside `authors_layers`."""
    model = copy.deepcopy(model)
    for i, layer in enumerate(model.model):  # type: ignore[arg-type]  # an nn.Sequential
        if hasattr(layer, "reduce_upper"):
            model.model[i] = _pst(layer)  # type: ignore[index]
    return {
        "date": "2025-05-01T00:00:00",
        "version": "8.3.105",
        "epoch": -1,
        "best_fitness": None,
        "model": model.half(),
        "ema": None,
        "optimizer": None,
        "train_args": {"task": "detect", "imgsz": 96, "epochs": 3, "data": "/home/them/data.yaml", "optimizer": "SGD"},
        **entries,
    }


def authors_layers(patch: pytest.MonkeyPatch) -> None:
    """Make the fork's classes importable, so that they can be pickled by name."""
    from ultralytics.nn.modules import block

    for kind in LAYERS.values():
        patch.setattr(block, kind.__name__, kind, raising=False)


LAYERS = {name: type(name, (nn.Module,), {"__module__": HOME}) for name in ("PST", "PSAttnBlock", "PSAttn")}


def _pst(ours: Any) -> nn.Module:
    layer = LAYERS["PST"]()
    layer.i, layer.f, layer.type, layer.np = ours.i, ours.f, f"{HOME}.PST", ours.np
    layer.cv1, layer.cvup, layer.cv2 = ours.reduce, ours.reduce_upper, ours.project
    for i, block in enumerate(ours.blocks):
        theirs, attn = LAYERS["PSAttnBlock"](), LAYERS["PSAttn"]()
        for name in ("q", "kv", "pe", "proj"):
            setattr(attn, name, getattr(block.attn, name))
        gate = nn.Conv1d(block.attn.gate.in_features, block.attn.gate.out_features, 1)
        gate.weight = nn.Parameter(block.attn.gate.weight.detach()[..., None])
        gate.bias = block.attn.gate.bias
        attn.gate_conv1d, theirs.attn, theirs.mlp = gate, attn, block.mlp
        layer.add_module(f"attnlayer_{i}", theirs)
    return layer


def save(content: Any, path: Path) -> Path:
    """``torch.save``, and the path."""
    torch.save(content, path)
    return path
