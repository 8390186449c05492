"""Where one position looks: its attention over the fine map, by the reference operator from recorded queries and keys.

The result of attention is linear in the values, so that its gradient with respect to a value of 1 at each token is the
weight of that token, whatever the fusion, the rule and the bound on tokens.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.explore.passes import Pass
from pst.functional import pyramid_sparse_attention
from pst.functional.grid import Size, block_grid, parent_index
from pst.functional.selection import Query, Selected, Tokens


class Attention(NamedTuple):
    """Where a position looks.

    Attributes:
        weights: (Hf, Wf), sum 1; a coarse token's weight is spread evenly over its children.
        share: Of the fine branch in the gate's result, mean over channels; None without a gate or with k = 0.
    """

    weights: Tensor
    share: float | None


class _Chosen:
    """The selection that was recorded, as a rule."""

    def __init__(self, tokens: list[int]) -> None:
        self.index = torch.tensor(tokens).view(1, 1, -1)

    def select(self, tokens: Tokens) -> Selected:  # noqa: ARG002 the recorded ones alone
        """See `pst.functional.selection.SelectionRule`."""
        return Selected(self.index)


def attention_of(p: Pass, head: int, position: tuple[int, int]) -> Attention:
    """Attention of the query at a position (row, column) of one head.

    Raises:
        IndexError: Head or position is none of the layer's.
    """
    if not (0 <= head < p.layer.num_heads and 0 <= position[0] < p.size[0] and 0 <= position[1] < p.size[1]):
        raise IndexError(f"there is no head {head} with position {position} in {p.name}")
    query = _tokens(p.query, head, p.layer.num_heads)[:, :, position[0], position[1]][:, :, None, None]
    key, value = _pair(p.coarse, head, p.layer.num_heads)
    pair = None if p.fine is None else _pair(p.fine, head, p.layer.num_heads)
    query, key, pair, scale = _scaled(p, head, query, key, pair)
    options: dict[str, Any] = {"scale": scale, "max_tokens": p.settings.max_tokens, "impl": "reference"}
    options["fine_size"] = fine_size = p.size if p.fine is None else (p.fine.shape[1], p.fine.shape[2])
    share = None
    if pair is not None:
        tokens = tokens_of(p, head, position)
        options |= {"topk": len(tokens), "selection": _Chosen(tokens), "fusion": p.settings.fusion}
        if p.settings.fusion == "gate":
            share = _share(p, query, key, value, pair, options)
            options["gate"] = _constant(share)
    ones = torch.ones_like(key[..., :1], requires_grad=True)
    fine_ones = None if pair is None else torch.ones_like(pair[0][..., :1], requires_grad=True)
    fine = None if pair is None or fine_ones is None else (pair[0], fine_ones)
    with torch.enable_grad():
        pyramid_sparse_attention(query, key, ones, fine, **options).sum().backward()
    return Attention(_spread(ones, fine_ones, fine_size, p.coarse_size), share)


def tokens_of(p: Pass, head: int, position: tuple[int, int] | None) -> list[int]:
    """Coarse tokens whose children the query at a position sees, highest score first; None: those of any query."""
    if p.selection is None:
        return []
    index = p.selection.index[0, head]
    if index.ndim == 2:
        index = index.T.flatten() if position is None else index[_block(p, len(index), position)]
    return [token for token in dict.fromkeys(index.tolist()) if token >= 0]


def _block(p: Pass, blocks: int, position: tuple[int, int]) -> int:
    """Which of the blocks of queries a position is in."""
    rule: Any = p.settings.selection
    (height, width), (rows, columns) = p.size, _grid_of(rule, blocks, p.size)
    return position[0] * rows // height * columns + position[1] * columns // width


def _grid_of(rule: Any, blocks: int, size: Size) -> Size:
    from pst.functional.selection import check_selection

    rule = check_selection(rule)
    grid = size if isinstance(rule, Query) else block_grid(getattr(rule, "grid", 1), size)
    if grid[0] * grid[1] != blocks:
        raise ValueError(f"the rule {type(rule).__name__} does not say how it divides {size[0]}×{size[1]} queries")
    return grid


def _scaled(p: Pass, head: int, query: Tensor, key: Tensor, pair: Any) -> tuple[Tensor, Tensor, Any, float]:
    """Queries and keys as the layer compares them, and the factor on their products."""
    if p.settings.similarity != "cosine":
        return query, key, pair, query.shape[-1] ** -0.5
    assert p.layer.log_scale is not None
    scale = float(p.layer.log_scale.detach()[head].clamp(max=math.log(100)).exp())
    unit = None if pair is None else (F.normalize(pair[0], dim=-1), pair[1])
    return F.normalize(query, dim=-1), F.normalize(key, dim=-1), unit, scale


def _share(p: Pass, query: Tensor, key: Tensor, value: Tensor, pair: Any, options: dict[str, Any]) -> float:
    """What the layer's gate gives the fine branch at this position, mean over the head's channels."""
    asked: list[Tensor] = []
    gate: Any = p.layer.gate

    def asking(both: Tensor) -> Tensor:
        like = next(gate.parameters())
        asked.append(gate(both.to(like)).to(both))
        return asked[-1]

    with torch.no_grad():
        pyramid_sparse_attention(query, key, value, pair, gate=asking, **options)
    return float(asked[0].sigmoid().mean())


def _constant(share: float) -> Any:
    """A gate that gives the fine branch this share."""
    logit = math.log(max(share, 1e-12) / max(1 - share, 1e-12))
    return lambda both: torch.full_like(both[..., : both.shape[-1] // 2], logit)


def _tokens(maps: Tensor, head: int, heads: int) -> Tensor:
    """(C, H, W) -> (1, 1, H, W, d), those of one head."""
    return maps.unflatten(0, (heads, -1))[head].permute(1, 2, 0)[None, None]


def _pair(maps: Tensor, head: int, heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values of one head, of a map that has each head's keys and values side by side."""
    key, value = _tokens(maps, head, heads).chunk(2, -1)
    return key, value


def _spread(ones: Tensor, fine_ones: Tensor | None, fine_size: Size, coarse_size: Size) -> Tensor:
    """(Hf, Wf): weights of the fine tokens, and those of the coarse ones over their children."""
    assert ones.grad is not None
    owner = parent_index(fine_size, coarse_size)
    coarse = ones.grad.flatten() / owner.bincount(minlength=coarse_size[0] * coarse_size[1])
    out = coarse[owner].unflatten(0, fine_size)
    return out if fine_ones is None or fine_ones.grad is None else out + fine_ones.grad[0, 0, ..., 0]
