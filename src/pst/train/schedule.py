"""The learning rate of a run."""

from __future__ import annotations

import timm
import torch
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler

from pst.train.config import Config


def schedule(optimizer: torch.optim.Optimizer, config: Config, updates: int) -> Scheduler | None:
    """timm's schedule over all epochs; None for "none".

    Args:
        optimizer: Whose rate it sets.
        config: Of the run.
        updates: Optimizer steps of an epoch.

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
    )
    if made is None and c.scheduler != "none":
        raise ValueError(f"timm {timm.__version__} has no schedule {c.scheduler!r}: choose another scheduler")
    return made
