"""Which parameters belong to which stage of a body, and freezing the first of them."""

from __future__ import annotations

import torch
from torch import nn

from pst.backbones.plain import PlainBody
from pst.control.layers import eval_mode

STAGES = 5  # torchvision counts the stem and the stages of reductions 4, 8, 16, 32


def freeze_stages(body: nn.Module, trainable_layers: int, example: torch.Tensor) -> None:
    """Freeze all but the last stages, counted as torchvision's ``trainable_backbone_layers``.

    A stage is what lies between two halvings of the map: 5 stages are the stem (reduction 2) and those of reductions 4,
    8, 16 and 32. A network whose first map has reduction 4 has its stem in that stage. Which parameters a map depends
    on is asked of autograd, so no library's names are assumed.

    Args:
        body: A `pst.backbones.Body`.
        trainable_layers: 5 freezes nothing, 0 the whole body.
        example: Images (1, channels, H, W) that the body takes.

    A plain vision transformer has no stages: 5 trains it, 0 freezes it, and the levels made of its map train.

    Raises:
        ValueError: ``trainable_layers`` is not from 0 to 5, or neither for a plain vision transformer.
    """
    if not 0 <= trainable_layers <= STAGES:
        raise ValueError(f"trainable_layers must be from 0 to {STAGES}, got {trainable_layers}")
    if isinstance(body, PlainBody):
        if trainable_layers not in (0, STAGES):
            raise ValueError(
                f"trainable_layers of {body.name}, a plain vision transformer without stages, must be 0 (frozen) or "
                f"{STAGES} (all), got {trainable_layers}"
            )
        if trainable_layers == 0:
            body.freeze()
        return
    for stage, parameters in enumerate(_parameters_by_stage(body, example)):
        for p in parameters:
            p.requires_grad_(stage >= STAGES - trainable_layers)


def _parameters_by_stage(body: nn.Module, example: torch.Tensor) -> list[list[nn.Parameter]]:
    """Parameters that the map of reduction 2, 4, 8, 16, 32 depends on and no finer map does; rest: with the last."""
    with eval_mode(body), torch.enable_grad():
        maps = body(example)
    stages: list[list[nn.Parameter]] = [[] for _ in range(STAGES)]
    rest = [p for p in body.parameters() if p.requires_grad]
    for reduction, y in maps.items():
        if rest:
            gradients = torch.autograd.grad(y.sum(), rest, retain_graph=True, allow_unused=True)
            stage = min(max(int(reduction).bit_length() - 2, 0), STAGES - 1)
            stages[stage] += [p for p, g in zip(rest, gradients, strict=True) if g is not None]
            rest = [p for p, g in zip(rest, gradients, strict=True) if g is None]
    stages[-1] += rest
    return stages
