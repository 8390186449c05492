"""A variant's and a recipe's settings on a model, for every runner."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

import pst
from lab.study.grid import Cell
from lab.study.variants import Variant
from pst.functional.selection import Random

_OPTIONS = ("fusion", "selection", "track_fine_statistics", "stochastic_topk")


def apply(model: nn.Module, variant: Variant) -> nn.Module:
    """Set k, fusion, selection and constant gate of every PST layer; the model is changed and returned."""
    if variant.k != 0:
        pst.set_fusion(model, variant.fusion)  # pyright: ignore[reportArgumentType] checked there
    pst.set_topk(model, variant.k)
    name, _, seed = variant.selection.partition(":")
    pst.set_selection(model, Random(seed=int(seed)) if name == "random" else name)
    if variant.gate is not None:
        pst.set_gate(model, variant.gate)
    return model


def prepare(
    model: nn.Module, recipe: Mapping[str, Any], generator: torch.Generator | None = None
) -> AbstractContextManager[object]:
    """Set what a recipe asks of PST layers on a model that is going to be trained by it.

    Args:
        model: It is changed.
        recipe: Its other entries are not looked at.
        generator: That k is drawn with, where the recipe draws it; None is PyTorch's global one.

    Returns:
        Ends the drawing of k when a with block of it ends.
    """
    from pst.train.models import prepare_attention

    options = {name: recipe[name] for name in _OPTIONS if name in recipe}
    if generator is not None and options.get("stochastic_topk") is not None:
        options["stochastic_topk"] = {**options["stochastic_topk"], "generator": generator}
    return prepare_attention(model, **options)


def check(model: nn.Module, cell: Cell) -> None:
    """Try the settings of all variants on a copy of the model that is going to be trained.

    Raises:
        ValueError: One does not fit, e.g. has a k for each of another number of attention layers.
    """
    if cell.settings["evaluations"] is None:
        return
    trial = copy.deepcopy(model)
    for variant in cell.variants:
        apply(trial, variant)


def counted(cell: Cell) -> list[Variant]:
    """Variants whose operations are counted: one for each k, fusion and image size of the training."""
    plain = [v for v in cell.variants if v.selection == "mean" and v.gate is None and v.imgsz is None]
    return [v for v in plain if v.use == "trained"]
