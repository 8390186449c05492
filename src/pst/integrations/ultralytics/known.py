"""The classes that a checkpoint of an Ultralytics model may name; see `pst.io.safe_load`."""

from __future__ import annotations

import functools
from types import ModuleType

import torchvision
from torch import nn
from ultralytics.nn import modules as host_modules
from ultralytics.nn import tasks as host_tasks
from ultralytics.utils import loss as host_loss
from ultralytics.utils import tal as host_tal

from pst import modules
from pst.integrations.ultralytics.parser import KINDS
from pst.modules.fine_statistics import FineStatistics
from pst.modules.hooks import DrawMaxTokens, DrawTopk, FreezeNorms

AUTHORS_LAYERS = frozenset(f"ultralytics.nn.modules.block.{name}" for name in ("PST", "PSAttnBlock", "PSAttn"))
RENAMED = {"Silence": "Identity", "YOLOv10DetectionModel": "DetectionModel"}  # by Ultralytics, since
# What else is in published and trained checkpoints, and is not used.
_UNUSED = frozenset({
    "builtins.getattr", "functools.partial", "types.SimpleNamespace",
    "ultralytics.utils.IterableSimpleNamespace", "ultralytics.yolo.utils.IterableSimpleNamespace",
    "ultralytics.nn.modules.block.Silence", "ultralytics.nn.tasks.YOLOv10DetectionModel",
    "ultralytics.utils.loss.v10DetectLoss",
    "torchvision.transforms.functional.InterpolationMode",
    *(f"torchvision.transforms.transforms.{name}" for name in (
        "Compose", "Normalize", "Resize", "CenterCrop", "ToTensor"
    )),
})  # fmt: skip


def own_classes() -> tuple[type, ...]:
    """Those of this package and of rows that were added to `parser.KINDS`, beside the layers in `pst.modules`."""
    return FineStatistics, DrawTopk, DrawMaxTokens, FreezeNorms, *(kind.layer for kind in KINDS.values())


def class_names() -> frozenset[str]:
    """Full names: the layers and models of torch, torchvision, Ultralytics and pst, and what comes with them."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in own_classes()}
    return _host_names() | names | _UNUSED | AUTHORS_LAYERS


@functools.cache
def _host_names() -> frozenset[str]:
    layers = [kind for home in _homes() for kind in _classes(home) if issubclass(kind, nn.Module)]
    losses = [kind for home in (host_loss, host_tal) for kind in _classes(home) if kind.__module__ == home.__name__]
    return frozenset(f"{kind.__module__}.{kind.__qualname__}" for kind in (*layers, *losses))


def _homes() -> list[ModuleType]:
    """Modules that the layers are looked up in."""
    inner = [m for home in (host_modules, torchvision.models) for m in vars(home).values() if isinstance(m, ModuleType)]
    return [nn, nn.modules.linear, host_tasks, modules, torchvision.models, torchvision.ops, *inner]


def _classes(home: ModuleType) -> list[type]:
    return [kind for kind in vars(home).values() if isinstance(kind, type)]
