"""The `YOLO` class that has the plugin on and executes nothing of the files it is handed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GeneratorType
from typing import Any

from ultralytics import RTDETR, YOLOE, YOLOWorld
from ultralytics import YOLO as HostYOLO
from ultralytics.engine.model import Model
from ultralytics.nn import tasks as host_tasks

from pst.control.layers import find_attention
from pst.integrations.ultralytics import checkpoints
from pst.integrations.ultralytics.guard import is_protected, protected, told
from pst.integrations.ultralytics.plugin import register

_READERS = ("load", "predict", "track", "val", "calibrate", "benchmark", "export", "train", "tune")


class Guarded:
    """Protects the methods of Ultralytics' ``Model`` that read files; to be inherited from before it."""

    trust = False


def _reading(name: str) -> Callable[..., Any]:
    """The host's method, protected unless the object trusts its files."""

    @functools.wraps(getattr(Model, name))
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        with told(), protected(not self.trust):
            result = getattr(super(Guarded, self), name)(*args, **kwargs)
        return _streamed(result, not self.trust) if isinstance(result, GeneratorType) else result

    return method


def _streamed(results: Iterator[Any], on: bool) -> Iterator[Any]:
    """``results``, each of them made under protection, which ends where the caller has it."""
    while True:
        with protected(on):
            try:
                result = next(results)
            except StopIteration:
                return
        yield result


for _name in _READERS:
    if hasattr(Model, _name):
        setattr(Guarded, _name, _reading(_name))


class YOLO(Guarded, HostYOLO):
    """Ultralytics' own ``YOLO`` with the plugin registered.

    Takes whatever that takes, and the models of `model_zoo`, e.g. ``YOLO("yolo11n-pst.yaml")``. A YAML whose name has
    "rtdetr" in it gives an ``ultralytics.RTDETR``, as it does on Ultralytics' command line and for checkpoints.

    Checkpoints, data sets and YAMLs are data: nothing in them is executed, whatever method reads them. What cannot be
    read so is refused with a ValueError that names the reason.

    ``train`` trains with the k and fusion of the model's YAML: k = 0, coarse attention alone, unless a PST row has the
    option ``topk``. What was set on the object before is set on the trained model that it holds afterwards; the
    checkpoints keep what they were trained with, and ``train(resume=True)`` goes on with that.

    Args:
        model: Name or path of a YAML, a checkpoint or an exported file.
        task: As in Ultralytics.
        verbose: As in Ultralytics.
        trust: Do as Ultralytics does, which runs whatever code the model's file, a data set's YAML or its cache hold.

    Examples:
        >>> model = YOLO("yolo11n-pst-neck.yaml")
        >>> pst.set_topk(model, 8)
        >>> model.task
        'detect'
    """

    def __init__(
        self,
        model: str | Path | Any = "yolo11n-pst.yaml",
        task: str | None = None,
        verbose: bool = False,
        *,
        trust: bool = False,
    ) -> None:
        register()
        path = Path(model) if isinstance(model, (str, Path)) else Path()
        with told(), protected(not trust):
            if "rtdetr" in path.stem and path.suffix in {".yaml", ".yml"}:
                self.__dict__ = RTDETR(model).__dict__
                self.__class__ = RTDETR  # type: ignore[assignment]  # as Ultralytics itself does for a checkpoint
                _follow_channels(self, *_own_channels(str(model)))
            else:
                super().__init__(model, task=task, verbose=verbose)
        self.__class__ = _KINDS.get(type(self), type(self))
        self.__dict__["trust"] = trust

    def _new(self, cfg: str, task: str | None = None, verbose: bool = False) -> None:
        """Build from a YAML; for the ``channels`` or ``ch`` in it, which the host reads for classifiers alone."""
        own, channels = _own_channels(cfg)
        super()._new(cfg, task=task, verbose=verbose)
        _follow_channels(self, own, channels)

    def _load(self, weights: str, task: str | None = None) -> None:
        """Load a checkpoint, or a ``.safetensors`` of `convert_checkpoint`, as Ultralytics loads a checkpoint."""
        decoded = (".safetensors", ".pt") if is_protected() else (".safetensors",)
        if not (weights.endswith(decoded) and Path(weights).exists()):  # else it may be a name to download
            super()._load(weights, task)
            return
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


class _RTDETR(Guarded, RTDETR):
    pass


class _YOLOWorld(Guarded, YOLOWorld):
    pass


class _YOLOE(Guarded, YOLOE):
    pass


_KINDS = {RTDETR: _RTDETR, YOLOWorld: _YOLOWorld, YOLOE: _YOLOE}  # what a YOLO object becomes with such a model


def check_pst(yolo: Any, source: str | Path) -> None:
    """Refuse the model of a file without PST layers.

    Raises:
        ValueError: It holds none.
    """
    if not find_attention(yolo):
        raise ValueError(
            f"{source} holds no PST layer, so there is no k to choose: use pst yolo val or pst yolo export with "
            f"model={source}, or a model with PST, see pst info --models"
        )


def trained_size(yolo: Any) -> Any:
    """Image size that a model was trained at, a side or (height, width); 640 where it does not say."""
    args = yolo.model.args if isinstance(yolo.model.args, dict) else vars(yolo.model.args)
    return args.get("imgsz", 640)
