"""The models that evaluations are of, beside the trained one: calibrated, and with a gate that was tuned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

import pst

CALIBRATION_BATCHES = 8
TUNED_K = 8
TUNED_LR = 0.01


def derive(
    model: nn.Module, use: str, *, batches: Callable[[], Iterable[Any]], tune: Callable[[nn.Module], object]
) -> nn.Module:
    """Calibrate a model, and tune its gate, with k = 8 and the mean rule, where that is asked for.

    Args:
        model: A copy of the trained one, on the device; it is changed.
        use: "calibrated" or "tuned".
        batches: Gives training inputs of the model, a few batches.
        tune: Trains what has a gradient, the gates alone, for one epoch; may set what the model then is.

    Returns:
        The model in eval mode.
    """
    pst.calibrate(model, batches(), device=next(model.parameters()).device)
    if use == "tuned":
        pst.set_options(model, topk=TUNED_K, fusion="gate", selection="mean")
        with pst.freeze_except_gate(model):
            tune(model.train())
    return model.eval()
