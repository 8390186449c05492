"""What the two implementations are given: checked by `pyramid_sparse_attention`, never by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.functional._rule import SelectionRule, Tokens

# (B, h, T) flat fine indices -> fine keys and values, (B, h, T, d) each
FineTokens = Callable[[Tensor], tuple[Tensor, Tensor]]


# both branches side by side (..., 2d) -> what the sigmoid is taken of, (..., d), for all heads and positions alike
Gate = Callable[[Tensor], Tensor]


class LinearGate(NamedTuple):
    """The paper's gate by its weights, ``weight`` (d, 2d) and ``bias`` (d), which a kernel may read."""

    weight: Tensor
    bias: Tensor

    def __call__(self, branches: Tensor) -> Tensor:
        """W [o_c ; o_f] + b."""
        return F.linear(branches, self.weight, self.bias)


def check_gated(gated: Tensor, branch: Tensor) -> Tensor:
    """Return what a gate gave; raise ValueError unless it has a channel for each of the branch's."""
    if gated.shape[-1] != branch.shape[-1]:
        raise ValueError(
            f"the gate must give {branch.shape[-1]} channels for {2 * branch.shape[-1]}, got shape "
            f"{tuple(gated.shape)}: build it as Linear({2 * branch.shape[-1]}, {branch.shape[-1]})"
        )
    return gated


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
