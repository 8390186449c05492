"""A variant's and a recipe's settings on a model, for every runner."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any

import torch
from torch import nn

import pst
from lab.study.grid import Cell
from lab.study.variants import Variant
from pst.functional.selection import Random
from pst.modules import Settings

_OPTIONS = (
    "track_fine_statistics",
    "stochastic_topk",
    "stochastic_max_tokens",
    *(field.name for field in fields(Settings)),
)


def apply(model: nn.Module, variant: Variant) -> nn.Module:
    """Set k, fusion, selection, bound and constant gate of every PST layer; the model is changed and returned."""
    name, _, seed = variant.selection.partition(":")
    rule = Random(seed=int(seed)) if name == "random" else name
    fusion = {} if variant.k == 0 else {"fusion": variant.fusion}  # a model without a gate has its own
    pst.set_options(model, topk=variant.k, selection=rule, max_tokens=variant.max_tokens, **fusion)
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
        generator: That k or the bound is drawn with, where the recipe draws; None is PyTorch's global one.

    Returns:
        Ends the drawing when a with block of it ends.
    """
    from pst.train.models import prepare_attention

    options = {name: recipe[name] for name in _OPTIONS if name in recipe}
    for name in ("stochastic_topk", "stochastic_max_tokens"):
        if generator is not None and options.get(name) is not None:
            options[name] = {**options[name], "generator": generator}
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
    """Variants whose operations are counted: one for each k, fusion, bound and image size of the training."""
    plain = [v for v in cell.variants if v.selection == "mean" and v.gate is None and v.imgsz is None]
    return [v for v in plain if v.use == "trained"]
