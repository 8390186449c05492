"""Which of the paper's models a state dict belongs to, told by its names and shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from ultralytics.nn import tasks as host_tasks

from pst.integrations.ultralytics import parser
from pst.integrations.ultralytics.zoo import host_name, load_by_name, model_zoo
from pst.io.transfer import Shapes, shapes

_FROM_DATA = ("nc", "channels", "kpt_shape")  # entries of a YAML that a training sets as its data wants


def find_bundled(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Name and dictionary of the paper's model whose state dict has the names and shapes of ``state``, or None.

    ``own`` is the checkpoint's dictionary: it gives the number of classes, and which model is tried first.
    """
    wanted = shapes(state)
    said = Path(str(own.get("yaml_file"))).name
    paper = (model.name for model in model_zoo() if host_name(model.name) is None)
    for name in sorted(paper, key=lambda name: name != said):
        cfg: dict[str, Any] = {
            **(load_by_name(name, host_tasks.yaml_model_load) or {}),
            **{key: own[key] for key in _FROM_DATA if key in own},
        }
        alike = len(cfg["backbone"] + cfg["head"]) == len(own["backbone"] + own["head"])
        if alike and cfg.get("activation") == own.get("activation") and shapes_of_yaml(cfg) == wanted:
            return name, cfg
    return None


def shapes_of_yaml(cfg: dict[str, Any]) -> Shapes:
    """Those of the state dict of the model that a YAML describes; takes no memory and draws no random numbers."""
    with torch.device("meta"):
        layers, _ = parser.parse(host_tasks.parse_model, copy.deepcopy(cfg), cfg["channels"], verbose=False)
    return {f"model.{name}": shape for name, shape in shapes(layers.state_dict()).items()}
