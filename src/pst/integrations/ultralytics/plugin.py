"""Switching the plugin on and off."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import ultralytics.utils as host_utils
from torch import nn
from ultralytics.engine import model as host_model
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn import tasks as host_tasks
from ultralytics.utils import dist as host_dist
from ultralytics.utils import patches
from ultralytics.utils import torch_utils as host_torch

from pst import modules as pst_modules
from pst.control.layers import find_attention, register_wrapper
from pst.integrations.ultralytics import checkpoints, compat, flops, guard, host_training, layer, parser, zoo
from pst.integrations.ultralytics.known import own_classes
from pst.integrations.ultralytics.model_yaml import check_model_yaml
from pst.io.files import explained

_originals: dict[tuple[Any, str], Any] = {}
# What reads files, as in `guard.REPLACED`.
READERS: tuple[tuple[Any, str, tuple[str, ...], Callable[..., Any]], ...] = (
    (patches, "torch_load", (), checkpoints.torch_load),
    *guard.REPLACED,
)


def register() -> None:
    """Let Ultralytics build models with PST rows and find the bundled YAMLs by name. Calling it again does nothing.

    These functions of Ultralytics are wrapped, and do what they did for models without PST layers:

    - ``parse_model`` and ``yaml_model_load``, which build models (see `parser` and `zoo`);
    - what reads checkpoints, caches of labels and YAMLs of data sets, which changes only where our `YOLO` and our
      command use Ultralytics: there nothing that a file holds is executed (see `guard`);
    - ``Model.train``, ``BaseTrainer.resume_training`` and ``generate_ddp_file``, for k and fusion, and for the
      processes of multi-GPU training (see `host_training`);
    - ``get_flops``, so that ``model.info()`` and loggers show the figure of `gflops`.

    Warns once when Ultralytics is outside the tested range.

    Raises:
        HostError: One of them is missing, or no longer does what the wrapper needs; an ImportError whose message names
            the tested versions. Then none is wrapped.
    """
    if _originals:
        return
    compat.warn_untested()
    try:
        for owner, name, parameters, replacement in _hooks():
            compat.check_function(owner, name, parameters)
            _wrap(owner, name, replacement)
        parser.check(_originals[host_tasks, "parse_model"])
    except BaseException:
        unregister()
        raise
    if getattr(host_utils, "SAFE_LOAD", False):  # ULTRALYTICS_SAFE_LOAD=1
        _allow_safe_load()


def unregister() -> None:
    """Give Ultralytics its own functions back."""
    for (owner, name), original in _originals.items():
        setattr(owner, name, original)
    _originals.clear()


def _hooks() -> list[tuple[Any, str, tuple[str, ...], Callable[..., Any]]]:
    """Owner, function, the parameters that it begins with, and what is called in its place, the original first."""
    return [
        (host_tasks, "parse_model", ("d", "ch", "verbose"), _parse_model),
        (host_tasks, "yaml_model_load", ("path",), _yaml_model_load),
        (host_model, "yaml_model_load", ("path",), _yaml_model_load),
        *((owner, name, begin, ours) for home, name, begin, ours in READERS for owner in _importers(home, name)),
        (host_model.Model, "train", ("self", "trainer"), host_training.train),
        (BaseTrainer, "resume_training", ("self", "ckpt"), host_training.resume),
        (host_dist, "generate_ddp_file", ("trainer",), host_training.ddp_file),
        (host_torch, "get_flops", ("model", "imgsz"), _get_flops),
    ]


def _importers(home: Any, name: str) -> list[Any]:
    """The home of a function, and the loaded modules of Ultralytics that have it under its name too."""
    original = getattr(home, name, None)
    modules = [m for key, m in sorted(sys.modules.items()) if key.partition(".")[0] == "ultralytics" and m is not home]
    return [home, *(m for m in modules if original is not None and vars(m).get(name) is original)]


def _allow_safe_load() -> None:
    """Let the host's own restricted loading open checkpoints with PST layers."""
    layers = [getattr(pst_modules, name) for name in pst_modules.__all__]
    layers = [layer for layer in layers if isinstance(layer, type) and issubclass(layer, nn.Module)]
    torch.serialization.add_safe_globals([*layers, *own_classes()])


def _wrap(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    _originals[owner, name] = original
    setattr(owner, name, wrapper)


def _parse_model(original: parser.ParseModel, d: dict[str, Any], ch: int, verbose: bool = True) -> Any:
    if guard.is_protected():
        source = d.get("yaml_file", "the model's YAML")
        check_model_yaml(d, source)
        with explained(f"{source} describes no model that can be built"):
            return parser.parse(original, d, ch, verbose)
    return parser.parse(original, d, ch, verbose)


def _yaml_model_load(original: Any, path: str | Path) -> dict[str, Any]:
    """A model of ours by its bare name; a file of that name comes first, and every other path is the host's."""
    path = Path(path)
    d = None if path.exists() or path.parent != Path() else zoo.load_by_name(path.name, original)
    return original(path) if d is None else d


def _get_flops(original: Any, model: Any, imgsz: int | list[int] = 640) -> float:
    """GFLOPs of a model with PST layers, counted in the same way whatever the version of ``thop``."""
    model = host_torch.unwrap_model(model)
    has_pst = isinstance(model, host_tasks.BaseModel) and bool(find_attention(model))
    return flops.gflops(model, imgsz) if has_pst else original(model, imgsz)


def _predictors_model(yolo: Any) -> list[nn.Module]:
    """The copy of its model that a YOLO object predicts with, once it has one."""
    copy = getattr(getattr(yolo.predictor, "model", None), "model", None)
    return [copy] if isinstance(copy, nn.Module) else []


layer.when_unpickled.append(register)
register_wrapper(host_model.Model, lambda yolo: yolo.model, _predictors_model)
