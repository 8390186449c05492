"""The optimizer of a run and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from pst.io.files import explained
from pst.train.config import Config


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """timm's optimizer for what is to be trained.

    Raises:
        ValueError: It cannot be made here; what timm says is in the message.
    """
    c = config
    with explained(f"the optimizer {c.optimizer} cannot be made, choose another", passing=()):
        return create_optimizer_v2(model, c.optimizer, c.lr, weight_decay=c.weight_decay, momentum=c.momentum)


def _shape(config: Config) -> dict[str, Any]:
    """What timm would have in absolute epochs, such as 90, in shares of this run's."""
    epochs = config.epochs
    shapes: dict[str, dict[str, Any]] = {
        "step": {"decay_epochs": math.ceil(epochs / 3)},
        "multistep": {"decay_milestones": [math.ceil(epochs * share) for share in (2 / 3, 11 / 12)]},
        "poly": {"decay_rate": 0.9},
        "rsqrt": {"stable_timescale": max(1, config.warmup)},
    }
    return shapes.get(config.scheduler, {})


def schedule(optimizer: torch.optim.Optimizer, config: Config, updates: int) -> Scheduler | None:
    """timm's schedule over all epochs, of ``updates`` optimizer steps each; None for "none".

    "step" goes down to a tenth after each third of the epochs, "multistep" after 2/3 and 11/12 of them; "poly" has the
    power 0.9.

    Raises:
        ValueError: This timm does not have it.
    """
    c = config
    made, _ = create_scheduler_v2(
        optimizer,
        c.scheduler,
        num_epochs=c.epochs,
        warmup_epochs=c.warmup,
        warmup_lr=c.lr / 100,
        min_lr=c.min_lr,
        step_on_epochs=False,
        updates_per_epoch=updates,
        **_shape(c),
    )
    if made is None and c.scheduler != "none":
        raise ValueError(f"timm {timm.__version__} has no schedule {c.scheduler!r}: choose another scheduler")
    return made
