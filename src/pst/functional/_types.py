"""What the two implementations are given: checked by `pyramid_sparse_attention`, never by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pst.functional._rule import SelectionRule, Tokens

# (B, h, T) flat fine indices -> fine keys and values, (B, h, T, d) each
FineTokens = Callable[[Tensor], tuple[Tensor, Tensor]]


class Gate(NamedTuple):
    """Weights of the paper's gate: ``weight`` (d, 2d) and ``bias`` (d), shared by all heads and positions."""

    weight: Tensor
    bias: Tensor


class Inputs(NamedTuple):
    """Coarse inputs and settings. Shapes: query (B, h, N, d), key and value (B, h, M, d)."""

    query: Tensor
    key: Tensor
    value: Tensor
    topk: int
    fusion: str
    rule: SelectionRule
    scale: float
    generator: torch.Generator | None
    observer: Callable[[Tensor], None] | None
    fine_size: tuple[int, int]  # (H, W), N = H·W
    coarse_size: tuple[int, int]  # (Hu, Wu), M = Hu·Wu

    def tokens(self) -> Tokens:
        """What the rule selects from."""
        return Tokens(self.query, self.key, self.topk, self.scale, self.fine_size, self.generator)
