"""What is checked before Ultralytics unpickles a checkpoint or builds a model that a checkpoint describes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn import tasks as host_tasks

from pst import modules
from pst._unpickle import Record
from pst.integrations.ultralytics.layer import PSTRow
from pst.integrations.ultralytics.parser import ROW_NAME, SUM_NAME
from pst.integrations.ultralytics.sums import SumRow
from pst.modules.fine_statistics import FineStatistics
from pst.modules.hooks import DrawTopk, FreezeNorms
from pst.pickle_reader import PickledCheckpoint

_AUTHORS_LAYERS = {("ultralytics.nn.modules.block", name) for name in ("PST", "PSAttnBlock", "PSAttn")}
_ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Z]\w*\([\w\s=.,+-]*\)")  # nn.LeakyReLU(0.1): a layer with plain arguments


def load(original: Callable[..., Any], file: Any, *args: Any, **kwargs: Any) -> Any:
    """Ultralytics' ``torch_load`` (``original``) with `check_checkpoint` before it; ``file`` is a path or open file."""
    check_checkpoint(file if isinstance(file, (str, Path)) else file.name)
    return original(file, *args, **kwargs)


def check_checkpoint(path: str | Path) -> None:
    """Decide without unpickling it that a checkpoint may be unpickled.

    Its pickle may name tensors, containers, layers of torch, torchvision, ultralytics and pst, and layers of other
    packages that this process has imported; it may call nothing else, and its model's YAML may name layers alone.

    Args:
        path: A ``.pt`` file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It may not; the message names what stands against it. Or it is a checkpoint of the PST authors'
            fork of Ultralytics, which has to be converted first.
    """
    checkpoint = read(path)
    if is_authors(checkpoint):
        target = Path(path).with_name(f"{Path(path).stem}-converted.pt")
        raise ValueError(
            f"{path} is a checkpoint of the PST authors' fork of Ultralytics: convert it first, with "
            f"pst convert {path} {target}"
        )
    for module in sorted({module for module, _ in checkpoint.globals}):
        if not _importable(module):
            raise ValueError(f"{path} needs {module}, which is not here: install the versions that it was saved with")
    for model in models(checkpoint):
        for _, layer in checkpoint.modules(model):
            if "yaml" in layer.state:
                check_model_yaml(layer.state["yaml"], path)


def read(path: str | Path) -> PickledCheckpoint:
    """Decode a ``.pt`` file; layers of other packages are known if this process has imported them."""
    return PickledCheckpoint(path, accept=_imported_layer)


def is_authors(checkpoint: PickledCheckpoint) -> bool:
    """Whether it holds layers of the PST authors' fork."""
    return not _AUTHORS_LAYERS.isdisjoint(checkpoint.globals)


def models(checkpoint: PickledCheckpoint) -> Iterator[Record]:
    """The models of an Ultralytics checkpoint, the averaged one (EMA) first, as Ultralytics prefers it."""
    root = checkpoint.root if isinstance(checkpoint.root, dict) else {}
    yield from (root[key] for key in ("ema", "model") if isinstance(root.get(key), Record))


def check_model_yaml(cfg: Any, source: str | Path) -> None:
    """Raise ValueError if building a model from ``cfg`` could run more than the constructors of layers.

    Ultralytics evaluates ``activation`` as Python and looks row names up among all that it has imported.
    """
    if not isinstance(cfg, dict) or not all(isinstance(cfg.get(part), list) for part in ("backbone", "head")):
        raise ValueError(f"{source} describes its model by no Ultralytics YAML with a backbone and a head")
    activation = cfg.get("activation")
    if activation is not None and not (isinstance(activation, str) and _ACTIVATION.fullmatch(activation)):
        raise ValueError(f"{source} is refused: its activation {activation!r} is not of the form nn.SiLU()")
    for row in cfg["backbone"] + cfg["head"]:
        if not isinstance(row, (list, tuple)) or len(row) != 4 or not _is_layer(row[2]):
            raise ValueError(f"{source} is refused: the row {row!r} of its model names no layer")


def allow_safe_load() -> None:
    """Let ``ULTRALYTICS_SAFE_LOAD=1`` and ``torch.load(weights_only=True)`` open checkpoints with PST layers."""
    layers = [getattr(modules, name) for name in modules.__all__]
    layers = [layer for layer in layers if isinstance(layer, type) and issubclass(layer, nn.Module)]
    torch.serialization.add_safe_globals([*layers, FineStatistics, DrawTopk, FreezeNorms, PSTRow, SumRow])


def _is_layer(name: Any) -> bool:
    if not isinstance(name, str):
        return False
    if name in (ROW_NAME, SUM_NAME) or re.fullmatch(r"torchvision\.ops\.[A-Z]\w*", name):
        return True
    kind = vars(nn).get(name[3:]) if name.startswith("nn.") else vars(host_tasks).get(name)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        return False
    return kind.__module__.startswith("ultralytics.nn.modules.") or not kind.__module__.startswith("ultralytics.")


def _imported_layer(module: str, name: str) -> bool:
    """Whether it is a layer class of another package that this process has already imported."""
    kind = vars(sys.modules[module]).get(name) if module in sys.modules else None
    foreign = module.partition(".")[0] not in ("torch", "torchvision", "ultralytics", "pst")
    return foreign and isinstance(kind, type) and issubclass(kind, nn.Module)


def _importable(module: str) -> bool:
    """Whether importing it would succeed, found out without importing it: else Ultralytics would pip install it."""
    if module in sys.modules:
        return True
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False
