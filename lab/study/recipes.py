"""A variant's and a recipe's settings on a model, for every runner."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import nn

import pst
from lab.study.grid import Cell
from lab.study.variants import Variant
from pst.functional.selection import Random
from pst.modules import Settings


def apply(model: nn.Module, variant: Variant) -> nn.Module:
    """Set k, fusion, selection and constant gate of every PST layer; the model is changed and returned."""
    name, _, seed = variant.selection.partition(":")
    rule = Random(seed=int(seed)) if name == "random" else name
    fusion = {} if variant.k == 0 else {"fusion": variant.fusion}  # a model without a gate has its own
    pst.set_options(model, topk=variant.k, selection=rule, **fusion)
    if variant.gate is not None:
        pst.set_gate(model, variant.gate)
    return model


def prepare(model: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Set a recipe's options and statistics on a model that is going to be trained by it."""
    names = {field.name for field in fields(Settings)} & recipe.keys()
    if names:
        pst.set_options(model, **{name: recipe[name] for name in names})
    if recipe.get("track_fine_statistics", False):
        pst.track_fine_statistics(model)


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
