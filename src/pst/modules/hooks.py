"""Forward pre-hooks of a whole model. They stand here, and hold plain values alone, as they are pickled with it."""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn
from torch._compile import _disable_dynamo
from torch.nn.modules.batchnorm import _BatchNorm

from pst.modules.attention import PyramidSparseAttention


class Draw:
    """Draws one value for all PST layers of a model before each of its training passes.

    Args:
        choices: Values, equally likely in the passes that draw.
        share: Of the passes that draw; in the others every layer gets ``otherwise``.
        generator: Source of the draws; None means PyTorch's global one. Neither copied nor pickled.
    """

    attribute: ClassVar[str]  # of a layer
    otherwise: ClassVar[int]

    def __init__(self, choices: tuple[int, ...], share: float, generator: torch.Generator | None) -> None:
        self.choices, self.share, self.generator = choices, share, generator

    @_disable_dynamo  # as torch.compiler.disable, which would double the time that importing this takes
    def __call__(self, model: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG002 PyTorch gives them
        """Draw, if ``model`` is in training mode."""
        if not model.training:
            return
        drawn, which = torch.rand(2, generator=self.generator).tolist()
        value = self.choices[int(which * len(self.choices))] if drawn < self.share else self.otherwise
        for layer in model.modules():
            if isinstance(layer, PyramidSparseAttention):
                setattr(layer, self.attribute, value)

    def __getstate__(self) -> dict[str, Any]:
        return {"choices": self.choices, "share": self.share, "generator": None}


class DrawTopk(Draw):
    """Draws k, see `pst.stochastic_topk`; 0 in the passes that do not draw."""

    attribute, otherwise = "drawn_topk", 0


NO_BOUND = 2**31 - 1  # more tokens than any map has


class DrawMaxTokens(Draw):
    """Draws the bound on the coarse tokens, see `pst.stochastic_max_tokens`; none in the passes that do not draw."""

    attribute, otherwise = "drawn_max_tokens", NO_BOUND


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
