"""Building a model of what a file, which is not trusted, says of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook
from ultralytics.nn import tasks as host_tasks
from ultralytics.utils import DEFAULT_CFG_DICT

from pst.control.layers import find_attention
from pst.integrations.ultralytics.match import shapes_of_yaml
from pst.integrations.ultralytics.portable import Checkpoint, train_args
from pst.io.files import explained
from pst.io.transfer import difference, shapes


def build(checkpoint: Checkpoint, source: str | Path) -> Any:
    """Ultralytics' model with the weights, names, k and selection of ``checkpoint``: float32, CPU, in eval mode.

    Needs the plugin switched on.

    Raises:
        ValueError: The YAML describes no model that can be built, or the weights are not those of that model; the
            message names the file, ``source``.
    """
    with explained(f"{source} is refused: no {checkpoint.model} can be built of it", passing=(ImportError, OSError)):
        model, unlike = _empty(checkpoint)
        layers = find_attention(model)
        if unlike or checkpoint.attention.keys() - layers:
            raise ValueError(f"the weights are not those of {checkpoint.model}: {unlike or 'other attention layers'}")
        model.load_state_dict(checkpoint.state)
        for name, values in checkpoint.attention.items():
            layers[name].settings = layers[name].settings.changed(values)
    model.yaml, model.names, model.task = copy.deepcopy(checkpoint.yaml), dict(checkpoint.names), checkpoint.task
    model.args = {**DEFAULT_CFG_DICT, **train_args(checkpoint)}
    return model.eval().requires_grad_(False)


def _empty(checkpoint: Checkpoint) -> tuple[Any, str]:
    """The model with fresh weights, and how the checkpoint's differ from them in names and shapes."""
    cfg, wanted = _without_downloads(checkpoint.yaml), shapes(_without_statistics(checkpoint.state))
    with _at_most(1000 + 4 * len(wanted)):  # layers; most have weights
        described = sum(map(math.prod, shapes_of_yaml(cfg).values()))
    held = sum(map(math.prod, wanted.values()))
    if described > 2 * held + 1_000_000:  # found out before memory is taken
        raise ValueError(f"its YAML describes {described:,} weights, and it holds {held:,}")
    kind: Any = getattr(host_tasks, checkpoint.model_class)

    def make(cfg: dict[str, Any]) -> Any:
        return kind(copy.deepcopy(cfg), ch=cfg["channels"], verbose=False)

    model = make(cfg)
    if width := _class_width(model, wanted):
        model.load(make({**cfg, "nc": width}), verbose=False)
    unlike = difference(shapes(model.state_dict()), wanted)
    if unlike and not any(name.endswith(".bn.weight") for name in wanted):  # it may have been saved after fuse()
        fused = copy.deepcopy(model).fuse(verbose=False)
        if not difference(shapes(fused.state_dict()), wanted):
            return fused, ""
    return model, unlike


def _class_width(model: Any, wanted: Mapping[str, Any]) -> int | None:
    """Width of the class branch in a checkpoint, where it is not the one that the number of classes gives.

    Training that starts from pretrained weights keeps their width: Ultralytics' ``load`` makes the branch as wide as
    that of the model it is given, whose width is its number of classes, 100 at most.
    """
    own = shapes(model.state_dict())
    for branch in ("cv3", "one2one_cv3"):
        name = f"model.{len(model.model) - 1}.{branch}.0.2.weight"
        if name in own and len(wanted.get(name, ())) == 4 and own[name][1] != wanted[name][1] <= 100:
            return wanted[name][1]
    return None


def _without_statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without those of the fine map, which a model makes when it loads them."""
    return {name: t for name, t in state.items() if ".fine_statistics." not in name}


def _without_downloads(cfg: dict[str, Any]) -> dict[str, Any]:
    """The YAML without weights that torchvision would fetch for a row, which the file has anyway."""
    cfg = copy.deepcopy(cfg)
    for row in cfg["backbone"] + cfg["head"]:
        if row[2] == "TorchVision" and len(row[3]) > 2:
            row[3][2] = None
    return cfg


@contextmanager
def _at_most(layers: int) -> Iterator[None]:
    """Stop a YAML of few lines that would make layers for hours."""
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > layers:
            raise ValueError(f"its YAML describes more than {layers:,} layers, which it does not hold")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
