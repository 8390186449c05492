"""What a model's YAML may hold: Ultralytics evaluates its activation, and looks rows up among all it imported."""

from __future__ import annotations

import ast
import re
import reprlib
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.nn import tasks as host_tasks

from pst.integrations.ultralytics.parser import KINDS

_ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Z]\w*")
_MAX_ROWS, _MAX_REPEATS, _MAX_NUMBER = 1000, 100, 1_000_000


def check_model_yaml(cfg: Any, source: str | Path) -> None:
    """Raise ValueError if building a model from ``cfg`` could run more than the constructors of layers, or for ever."""
    if not isinstance(cfg, dict) or not all(isinstance(cfg.get(part), list) for part in ("backbone", "head")):
        raise ValueError(f"{source} describes its model by no Ultralytics YAML with a backbone and a head")
    activation = cfg.get("activation")
    if activation is not None and not _is_activation(activation):
        raise ValueError(f"{source} is refused: its activation {reprlib.repr(activation)} is not of the form nn.SiLU()")
    rows = cfg["backbone"] + cfg["head"]
    if len(rows) > _MAX_ROWS:
        raise ValueError(f"{source} is refused: its model has {len(rows)} rows, more than {_MAX_ROWS}")
    for row in rows:
        if not isinstance(row, (list, tuple)) or len(row) != 4 or not _is_layer(row[2]):
            raise ValueError(f"{source} is refused: the row {reprlib.repr(row)} of its model names no layer")
        if not (type(row[1]) is int and 1 <= row[1] <= _MAX_REPEATS) or not _is_bounded(row[3]):
            raise ValueError(f"{source} is refused: the row {reprlib.repr(row)} of its model repeats or is too large")


def _is_activation(activation: Any) -> bool:
    """Whether it is ``nn.X(…)`` or ``torch.nn.X(…)`` of a layer X and literal arguments."""
    try:
        call = ast.parse(activation, mode="eval").body if isinstance(activation, str) else None
        if not isinstance(call, ast.Call) or not _ACTIVATION.fullmatch(ast.unparse(call.func)):
            return False
        for arg in [*call.args, *(keyword.value for keyword in call.keywords)]:
            ast.literal_eval(arg)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    kind = vars(nn).get(ast.unparse(call.func).rpartition(".")[2])
    return isinstance(kind, type) and issubclass(kind, nn.Module)


def _is_layer(name: Any) -> bool:
    if not isinstance(name, str):
        return False
    if name in KINDS or re.fullmatch(r"torchvision\.ops\.[A-Z]\w*", name):
        return True
    kind = vars(nn).get(name[3:]) if name.startswith("nn.") else vars(host_tasks).get(name)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        return False
    return kind.__module__.startswith("ultralytics.nn.modules.") or not kind.__module__.startswith("ultralytics.")


def _is_bounded(arg: Any, depth: int = 0) -> bool:
    if isinstance(arg, (list, tuple)):
        return depth < 4 and len(arg) <= 64 and all(_is_bounded(part, depth + 1) for part in arg)
    if isinstance(arg, dict):
        return _is_bounded([*arg.values()], depth)
    return not isinstance(arg, (int, float)) or abs(arg) <= _MAX_NUMBER
