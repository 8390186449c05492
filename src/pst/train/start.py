"""The process's place in a run: device, precision, processes."""

from __future__ import annotations

import random

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from pst.io.device import check_cuda
from pst.train.config import Config


def start(config: Config) -> Accelerator:
    """An `Accelerator` for a configuration, whatever an earlier run in this process asked for.

    Raises:
        ValueError: ``device`` is "cuda", and there is none.
    """
    check_cuda(config.device)
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=config.device == "cpu",
        mixed_precision="no" if config.amp == "none" else config.amp,
        gradient_accumulation_steps=config.accumulate,
    )


def seed_step(seed: int, *position: int) -> None:
    """Seed all generators from the run's seed and a position in it, so that nothing of them need be stored."""
    number = int(np.random.SeedSequence([seed, *position]).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 timm's mixup draws from the global generator
    torch.manual_seed(number)  # of all devices
