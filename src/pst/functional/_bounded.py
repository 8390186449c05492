"""A bounded number of coarse tokens: more are averaged, and those that hold selected ones are opened again.

Letters as in `pst.functional.attention`; P pooled tokens, S slots for siblings.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pst.functional.grid import Size, child_index, child_slots, parent_index


class Opened(NamedTuple):
    """What takes the place of pooled tokens that hold selected coarse tokens, for each image and head (and block).

    Attributes:
        gone: (B, h, P) bool: pooled tokens that are opened.
        inside: (B, h, S) int64 flat coarse indices: the coarse tokens inside them, spare slots and all.
        bias: (B, h, S) of their logits: −log n of the n tokens in their pooled one, −∞ for spare slots and for those
            that give way to their own children.
        children: (B, h, k) −log n of the pooled token that each selected one is of.
    """

    gone: Tensor
    inside: Tensor
    bias: Tensor
    children: Tensor


def open_pooled(selected: Tensor, used: Tensor | None, coarse_size: Size, pooled: Size, dtype: torch.dtype) -> Opened:
    """Open the pooled tokens that hold the ``selected`` coarse ones, (B, h, k); those not ``used`` open none."""
    owner = parent_index(coarse_size, pooled, selected.device)
    of = owner[selected]
    slot = torch.arange(selected.shape[-1], device=selected.device)
    earlier = (slot[None, :] < slot[:, None]) & (of[..., None, :] == of[..., :, None])
    holds = of[..., None] == torch.arange(pooled[0] * pooled[1], device=selected.device)
    if used is not None:
        earlier, holds = earlier & used[..., None, :], holds & used[..., None]
    first = ~earlier.any(-1)  # each opened token once, in the slot of the first selected one of it
    first = first if used is None else first & used
    replaced = torch.zeros(*selected.shape[:2], owner.shape[0], dtype=torch.int64, device=selected.device)
    ones = torch.ones_like(of) if used is None else used.to(torch.int64)
    replaced = replaced.scatter_add(2, selected, ones) > 0  # 2, not -1: OpenCV reads no negative axis of it
    index, valid = child_index(of, coarse_size, pooled)
    slots = child_slots(coarse_size, pooled)
    valid = torch.ones_like(index, dtype=torch.bool) if valid is None else valid
    there = first[..., None].expand(*first.shape, slots).flatten(-2) & valid & ~replaced.gather(-1, index)
    wide = torch.promote_types(dtype, torch.float32)
    less = -valid.unflatten(-1, (-1, slots)).sum(-1).to(wide).log()
    bias = less[..., None].expand(*less.shape, slots).flatten(-2).masked_fill(~there, float("-inf"))
    return Opened(holds.any(-2), index, bias.to(dtype), less.to(dtype))
