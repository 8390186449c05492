"""Forward pre-hooks of a whole model. They stand here, and hold plain values alone, as they are pickled with it."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn
from torch._compile import _disable_dynamo
from torch.nn.modules.batchnorm import _BatchNorm

from pst.modules.attention import PyramidSparseAttention


class DrawTopk:
    """Draws one k for all PST layers of a model before each of its training passes, see `pst.stochastic_topk`.

    Args:
        choices: Values of k, equally likely in the passes that draw.
        share: Of the passes that draw; the others run with k = 0.
        generator: Source of the draws; None means PyTorch's global one. Neither copied nor pickled.
    """

    def __init__(self, choices: tuple[int, ...], share: float, generator: torch.Generator | None) -> None:
        self.choices, self.share, self.generator = choices, share, generator

    @_disable_dynamo  # as torch.compiler.disable, which would double the time that importing this takes
    def __call__(self, model: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG002 PyTorch gives them
        """Draw, if ``model`` is in training mode."""
        if not model.training:
            return
        drawn, which = torch.rand(2, generator=self.generator).tolist()
        k = self.choices[int(which * len(self.choices))] if drawn < self.share else 0
        for layer in model.modules():
            if isinstance(layer, PyramidSparseAttention):
                layer.drawn_topk = k

    def __getstate__(self) -> dict[str, Any]:
        return {"choices": self.choices, "share": self.share, "generator": None}


Before: TypeAlias = "tuple[list[tuple[nn.Parameter, bool]], list[tuple[nn.Module, bool]]]"


class FreezeNorms:
    """Puts every BatchNorm of a model into eval mode before each of its passes, whatever `train()` did to it.

    Attributes:
        before: What learnt and which mode each module had, for the one who gives it back; neither copied nor pickled.
    """

    before: Before | None = None

    def __call__(self, model: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG002 PyTorch gives them
        """Do so."""
        for m in model.modules():
            if isinstance(m, _BatchNorm):
                m.eval()

    def __getstate__(self) -> dict[str, Any]:
        return {}
