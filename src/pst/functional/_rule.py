"""What a selection rule is: what it is given, what it answers, and how every rule breaks ties.

Letters: B batch, h heads, d head width, N = H·W query tokens, M coarse tokens, k selected tokens, G blocks of queries.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pst.functional.checks import is_eager
from pst.functional.grid import Size

LARGE = 2**13  # scores


class Tokens(NamedTuple):
    """What a rule selects from.

    Attributes:
        query: (B, h, N, d).
        key: (B, h, M, d), of the coarse tokens.
        topk: k ≥ 1; more than M means M.
        scale: Factor on every logit.
        size: (H, W) of the query map, N = H·W.
        coarse_size: (Hu, Wu) of the coarse map, M = Hu·Wu.
        generator: Of random numbers; None means PyTorch's global one.
    """

    query: Tensor
    key: Tensor
    topk: int
    scale: float
    size: Size
    coarse_size: Size
    generator: torch.Generator | None = None


class Selected(NamedTuple):
    """What a rule selected.

    Attributes:
        indices: (B, h, k) int64 flat coarse indices, highest score first; (B, h, G, k) where each block of queries has
            its own. No token stands twice in a row.
        valid: Bool, shape of ``indices``: which slots are used, the first of each row always; None when all are.
        grid: Rows and columns of blocks that the queries are divided into, G of them (`block_index`); None without.
    """

    indices: Tensor
    valid: Tensor | None = None
    grid: Size | None = None

    def marked(self) -> Tensor:
        """``indices`` with −1 in unused slots."""
        return self.indices if self.valid is None else self.indices.masked_fill(~self.valid, -1)


@runtime_checkable
class SelectionRule(Protocol):
    """What every selection rule is: an object with `select`. Any such object is accepted where a rule's name is."""

    def select(self, tokens: Tokens) -> Selected:
        """Select at most ``tokens.topk`` coarse tokens for each image and head.

        Runs without gradients. Draws random numbers from ``tokens.generator`` alone, if from any.
        """
        ...


def ranked(scores: Tensor) -> Tensor:
    """(..., M) scores with +∞ for those that are not finite, which no number ranks; files of other runtimes go without.

    A NaN or an infinity in a key or query makes a score NaN, +∞ or −∞, as the order of the summation has it.
    """
    if torch.jit.is_tracing():
        return scores
    return torch.nan_to_num(scores, math.inf, math.inf, math.inf)


def _in_onnx_export() -> bool:
    """`torch.onnx.is_in_onnx_export`, which Dynamo, the exporter's second way, takes for False."""
    return torch.onnx.is_in_onnx_export()


# As torch.compiler.assume_constant_result, whose import of Dynamo would take as long as all of pst's.
_in_onnx_export._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def highest(scores: Tensor, topk: int) -> Tensor:
    """Indices of the highest scores: not finite ones first, then highest first, equal ones in index order.

    Args:
        scores: (..., M), float or integer.
        topk: k; more than M means M.

    Returns:
        (..., min(k, M)) int64.
    """
    if _in_onnx_export():  # ONNX has no stable sort, but its TopK takes the lower index of a tie
        return scores.topk(min(topk, scores.shape[-1])).indices
    if torch.jit.is_tracing():  # Core ML cannot read the stable overload; on the CPU this one is stable as well
        return scores.sort(dim=-1, descending=True).indices[..., :topk]
    scores = ranked(scores)
    if is_eager() and scores.dtype == torch.float32 and scores.device.type == "cpu" and _is_large(scores, topk):
        return _highest_by_key(scores, topk)
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :topk]


def _is_large(scores: Tensor, topk: int) -> bool:
    """Whether a partial sort of more operators is faster than one whole sort."""
    return scores.numel() >= LARGE and scores.shape[-1] > topk


def _highest_by_key(scores: Tensor, topk: int) -> Tensor:
    """The same by a partial sort, of integers in the order of the scores with the index, from behind, as last bits."""
    bits = (scores + 0.0).view(torch.int32)  # −0 as 0
    last = scores.shape[-1] - 1
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() << 32
    keys = order | (last - torch.arange(last + 1, device=scores.device))
    return last - (keys.topk(topk).values & 0xFFFFFFFF)
