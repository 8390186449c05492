"""Switching the plugin on and off, and the `YOLO` class that has it on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultralytics import RTDETR
from ultralytics import YOLO as HostYOLO
from ultralytics.engine import model as host_model
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.nas import model as host_nas
from ultralytics.models.sam import build as host_sam
from ultralytics.models.sam import build_sam3 as host_sam3
from ultralytics.nn import tasks as host_tasks
from ultralytics.utils import dist as host_dist
from ultralytics.utils import torch_utils as host_torch

from pst.integrations.ultralytics import compat, guard, models, parser, training
from pst.integrations.ultralytics.layer import PSTRow

_originals: dict[tuple[Any, str], Any] = {}


class YOLO(HostYOLO):
    """Ultralytics' own ``YOLO`` with the plugin registered.

    Takes whatever that takes, and the models of `model_zoo`, e.g. ``YOLO("yolo11n-pst.yaml")``. A YAML whose name has
    "rtdetr" in it gives an ``ultralytics.RTDETR``, as it does on Ultralytics' command line and for checkpoints.

    ``train`` trains with the k and fusion of the model's YAML: k = 0, coarse attention alone, unless a PST row has the
    option ``topk``. What was set on the object before is set on the trained model that it holds afterwards; the
    checkpoints keep what they were trained with, and ``train(resume=True)`` goes on with that.
    """

    def __init__(
        self, model: str | Path | Any = "yolo11n-pst.yaml", task: str | None = None, verbose: bool = False
    ) -> None:
        register()
        path = Path(model) if isinstance(model, (str, Path)) else Path()
        if "rtdetr" in path.stem and path.suffix in {".yaml", ".yml"}:
            self.__dict__ = RTDETR(model).__dict__
            self.__class__ = RTDETR  # type: ignore[assignment]  # as Ultralytics itself does for a checkpoint
            _follow_channels(self, *_own_channels(str(model)))
            return
        super().__init__(model, task=task, verbose=verbose)

    def _new(self, cfg: str, task: str | None = None, verbose: bool = False) -> None:
        """Build from a YAML; for the ``channels`` or ``ch`` in it, which the host reads for classifiers alone."""
        own, channels = _own_channels(cfg)
        super()._new(cfg, task=task, verbose=verbose)
        _follow_channels(self, own, channels)

    def _load(self, weights: str, task: str | None = None) -> None:
        """Load a checkpoint as Ultralytics does, and a ``.safetensors`` of `convert_checkpoint` in the same way."""
        if not weights.endswith(".safetensors"):
            super()._load(weights, task)
            return
        from pst.integrations.ultralytics import checkpoints  # which imports this module

        model, self.ckpt = checkpoints.load(weights)
        model.args = self._reset_ckpt_args(model.args)
        self.model, self.task, self.overrides = model, model.task, {**model.args, "model": weights, "task": model.task}
        self.ckpt_path = self.model_name = weights


def _own_channels(cfg: str) -> tuple[dict[str, Any], int]:
    """A model YAML, and the channels of the images that it is for."""
    own = host_tasks.yaml_model_load(cfg)
    channels = own.get("channels", own.get("ch", 3))
    if type(channels) is not int or channels < 1:
        raise ValueError(f"{cfg} is for images of {channels!r} channels: wanted an integer ≥ 1")
    return own, channels


def _follow_channels(yolo: Any, own: dict[str, Any], channels: int) -> None:
    """Build a new model once more where the host built it for other channels."""
    model = yolo.model
    if channels != model.yaml["channels"]:
        yolo.model = type(model)(own, ch=channels, verbose=False)
        yolo.model.args, yolo.model.task = model.args, model.task


def register() -> None:
    """Let Ultralytics build models with PST rows and find the bundled YAMLs by name. Calling it again does nothing.

    These functions of Ultralytics are wrapped, and do what they did for models without PST layers:

    - ``parse_model`` and ``yaml_model_load``, which build models (see `parser` and `models`);
    - ``torch_load``, which then opens no checkpoint that could run code (see `guard`);
    - ``Model.train``, ``BaseTrainer.resume_training`` and ``generate_ddp_file``, for k and fusion, and for the
      processes of multi-GPU training (see `training`);
    - ``get_flops``, so that ``model.info()`` and loggers show the figure of `gflops`.

    Warns once when Ultralytics is outside the tested range 8.4.x.

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
    guard.allow_safe_load()


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
        *((owner, "torch_load", (), guard.load) for owner in (host_tasks, host_torch, host_nas, host_sam, host_sam3)),
        (host_model.Model, "train", ("self", "trainer"), training.train),
        (BaseTrainer, "resume_training", ("self", "ckpt"), training.resume),
        (host_dist, "generate_ddp_file", ("trainer",), training.ddp_file),
        (host_torch, "get_flops", ("model", "imgsz"), _get_flops),
    ]


def _wrap(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    _originals[owner, name] = original
    setattr(owner, name, wrapper)


def _parse_model(original: parser.ParseModel, d: dict[str, Any], ch: int, verbose: bool = True) -> Any:
    return parser.parse(original, d, ch, verbose)


def _yaml_model_load(original: Any, path: str | Path) -> dict[str, Any]:
    """A model of ours by its bare name; a file of that name comes first, and every other path is the host's."""
    path = Path(path)
    d = None if path.exists() or path.parent != Path() else models.load_by_name(path.name, original)
    return original(path) if d is None else d


def _get_flops(original: Any, model: Any, imgsz: int | list[int] = 640) -> float:
    """GFLOPs of a model with PST layers, counted in the same way whatever the version of ``thop``."""
    from pst.integrations.ultralytics import flops  # which imports this module

    model = host_torch.unwrap_model(model)
    has_pst = isinstance(model, host_tasks.BaseModel) and any(isinstance(m, PSTRow) for m in model.modules())
    return flops.gflops(model, imgsz) if has_pst else original(model, imgsz)
