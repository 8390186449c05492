"""Switching the plugin on and off, and the `YOLO` class that has it on."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import ultralytics
from ultralytics import RTDETR
from ultralytics import YOLO as HostYOLO
from ultralytics.engine import model as host_model
from ultralytics.nn import tasks as host_tasks

from pst.integrations.ultralytics import models, parser

TESTED = "8.4"
_originals: dict[tuple[Any, str], Any] = {}


class YOLO(HostYOLO):
    """Ultralytics' own ``YOLO`` with the plugin registered.

    Takes whatever that takes, and the models of `model_zoo`, e.g. ``YOLO("yolo11n-pst.yaml")``. A YAML whose name has
    "rtdetr" in it gives an ``ultralytics.RTDETR``, as it does on Ultralytics' command line and for checkpoints.
    """

    def __init__(
        self, model: str | Path | Any = "yolo11n-pst.yaml", task: str | None = None, verbose: bool = False
    ) -> None:
        register()
        path = Path(model) if isinstance(model, (str, Path)) else Path()
        if "rtdetr" in path.stem and path.suffix in {".yaml", ".yml"}:
            self.__dict__ = RTDETR(model).__dict__
            self.__class__ = RTDETR  # type: ignore[assignment]  # as Ultralytics itself does for a checkpoint
            return
        super().__init__(model, task=task, verbose=verbose)


def register() -> None:
    """Let Ultralytics build models with PST rows and find the bundled YAMLs by name. Calling it again does nothing.

    Two functions of Ultralytics are wrapped, ``parse_model`` and ``yaml_model_load``; models without PST rows and
    other names reach the originals unchanged. Warns once when Ultralytics is outside the tested range 8.4.x.
    """
    if _originals:
        return
    if not ultralytics.__version__.startswith(f"{TESTED}."):
        warnings.warn(
            f"pst is tested with ultralytics {TESTED}.x, found {ultralytics.__version__}: "
            f'if a model fails to build, pip install "ultralytics=={TESTED}.*"',
            stacklevel=2,
        )
    _wrap(host_tasks, "parse_model", _parse_model)
    _wrap(host_tasks, "yaml_model_load", _yaml_model_load)
    _wrap(host_model, "yaml_model_load", _yaml_model_load)


def unregister() -> None:
    """Give Ultralytics its own functions back."""
    for (owner, name), original in _originals.items():
        setattr(owner, name, original)
    _originals.clear()


def _wrap(owner: Any, name: str, replacement: Any) -> None:
    original = getattr(owner, name)
    _originals[owner, name] = original
    setattr(owner, name, functools.wraps(original)(functools.partial(replacement, original)))


def _parse_model(original: parser.ParseModel, d: dict[str, Any], ch: int, verbose: bool = True) -> Any:
    return parser.parse(original, d, ch, verbose)


def _yaml_model_load(original: Any, path: str | Path) -> dict[str, Any]:
    """A model of ours by its bare name; a file of that name comes first, and every other path is the host's."""
    path = Path(path)
    d = None if path.exists() or path.parent != Path() else models.load_by_name(path.name, original)
    return original(path) if d is None else d
