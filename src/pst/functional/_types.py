"""What the two implementations are given: checked by `pyramid_sparse_attention`, never by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.functional._rule import SelectionRule, Tokens

# (B, h, T) flat fine indices -> fine keys (B, h, T, d) and values (B, h, T, e)
FineTokens = Callable[[Tensor], tuple[Tensor, Tensor]]


# both branches side by side (..., 2e) -> what the sigmoid is taken of, (..., e), for all heads and positions alike
Gate = Callable[[Tensor], Tensor]


class LinearGate(NamedTuple):
    """The paper's gate by its weights, ``weight`` (d, 2d) and ``bias`` (d), which a kernel may read."""

    weight: Tensor
    bias: Tensor

    def __call__(self, branches: Tensor) -> Tensor:
        """W [o_c ; o_f] + b."""
        return F.linear(branches, self.weight, self.bias)


def check_gated(gated: Tensor, branch: Tensor) -> Tensor:
    """Return what a gate gave; raise TypeError or ValueError unless it is a tensor of the branch's shape."""
    if not isinstance(gated, Tensor):
        raise TypeError(f"the gate must give a tensor, got {type(gated).__name__}")
    width = branch.shape[-1]
    if gated.shape != branch.shape:
        raise ValueError(
            f"the gate must give {width} channels for {2 * width}, got shape {tuple(gated.shape)} in place of "
            f"{tuple(branch.shape)}: build it as Linear({2 * width}, {width})"
        )
    return gated


class Inputs(NamedTuple):
    """Coarse inputs and settings. Shapes: query (B, h, N, d), key (B, h, M, d), value (B, h, M, e)."""

    query: Tensor
    key: Tensor
    value: Tensor
    topk: int
    fusion: str
    rule: SelectionRule
    scale: float
    generator: torch.Generator | None
    observer: Callable[[Tensor], None] | None
    query_size: tuple[int, int]  # (H, W), N = H·W
    fine_size: tuple[int, int]  # (Hf, Wf), of the children
    coarse_size: tuple[int, int]  # (Hu, Wu), M = Hu·Wu
    pooled_size: tuple[int, int] | None = None  # of the coarse tokens if they are bounded

    def tokens(self) -> Tokens:
        """What the rule selects from."""
        return Tokens(self.query, self.key, self.topk, self.scale, self.query_size, self.coarse_size, self.generator)
