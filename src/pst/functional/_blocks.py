"""Attention of blocks of queries that each have fine tokens of their own, on the CPU, a few blocks at a time.

One softmax over the coarse tokens and the children needs both sets of logits, and those of one block after the other
need little memory: the coarse keys serve every block as they are, and no more children are gathered than are at work.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pst.functional._rule import Selected
from pst.functional._types import FineTokens, Inputs
from pst.functional.checks import is_eager
from pst.functional.grid import child_index, child_slots, join_blocks, split_blocks

AT_WORK = 2**18  # logits, or numbers of gathered keys, at a time: what a processor's cache holds


def applies(inputs: Inputs, fine: FineTokens, selected: Selected) -> bool:
    """Whether `attend_blocks` can do it: nothing is recorded, and no coarse value is NaN or infinite.

    A coarse token that gives way to its children has the weight 0 here, and 0 times NaN would be NaN.
    """
    query = inputs.query
    if selected.grid is None or selected.valid is not None or query.device.type != "cpu" or not is_eager():
        return False
    if torch.is_grad_enabled() and any(
        t.requires_grad for t in (query, inputs.key, inputs.value, *_example(fine, query))
    ):
        return False
    return bool(inputs.value.isfinite().all())


def _example(fine: FineTokens, query: Tensor) -> tuple[Tensor, Tensor]:
    """One fine key and value, to see whether they have gradients."""
    return fine(torch.zeros(*query.shape[:2], 1, dtype=torch.int64, device=query.device))


def attend_blocks(inputs: Inputs, fine: FineTokens, selected: Selected) -> Tensor:
    """The joint softmax of "refine", or the fine branch of "gate".

    Returns:
        (B, h, N, d).
    """
    assert selected.grid is not None
    parents, joint = selected.indices, inputs.fusion == "refine"
    blocks = parents.shape[2]
    own = split_blocks(inputs.query, inputs.query_size, selected.grid).unflatten(1, (-1, blocks))
    batch, heads, _, queries, width = own.shape
    wide = torch.promote_types(own.dtype, torch.float32)
    keys, values = (t.to(wide) for t in (inputs.key, inputs.value)) if joint else (None, None)
    out = torch.empty_like(own)
    children = parents.shape[3] * child_slots(inputs.fine_size, inputs.coarse_size)
    each = batch * heads * max(queries * (inputs.key.shape[2] if joint else children), children * width)
    step = max(1, AT_WORK // max(1, each))
    for begin in range(0, blocks, step):
        part = slice(begin, begin + step)
        query = own[:, :, part].to(wide) * inputs.scale
        logits, value = _fine_part(inputs, fine, parents[:, :, part], query, joint)
        if keys is None or values is None:
            out[:, :, part] = logits.softmax(-1) @ value
            continue
        coarse = (query.flatten(2, 3) @ keys.mT).unflatten(2, query.shape[2:4])
        gone = parents[:, :, part, None].expand(-1, -1, -1, queries, -1)
        coarse.scatter_(-1, gone, float("-inf"))
        highest = torch.maximum(coarse.amax(-1, keepdim=True), logits.amax(-1, keepdim=True))
        coarse, logits = coarse.sub_(highest).exp_(), logits.sub_(highest).exp_()
        mass = coarse.sum(-1, keepdim=True) + logits.sum(-1, keepdim=True)
        total = (coarse.flatten(2, 3) @ values).unflatten(2, query.shape[2:4]) + logits @ value
        out[:, :, part] = total / mass
    return join_blocks(out.flatten(1, 2), inputs.query_size, selected.grid)


def _fine_part(inputs: Inputs, fine: FineTokens, parents: Tensor, query: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
    """Logits (B, h, g, n, T) of the children of each block, those of one parent sharing its weight if ``joint``."""
    index, valid = child_index(parents, inputs.fine_size, inputs.coarse_size)
    key, value = (t.to(query.dtype).unflatten(2, index.shape[2:]) for t in fine(index.flatten(2)))
    slots = child_slots(inputs.fine_size, inputs.coarse_size)
    if valid is None:
        logits = query @ key.mT
        return (logits.sub_(math.log(slots)) if joint else logits), value
    logits = query @ torch.where(valid[..., None], key, key[..., :1, :]).mT
    value = value.masked_fill(~valid[..., None], 0)
    bias = torch.zeros_like(valid, dtype=query.dtype)
    if joint:
        bias = bias - valid.unflatten(-1, (-1, slots)).sum(-1, keepdim=True).to(bias.dtype).log().expand(
            *parents.shape, slots
        ).flatten(-2)
    return logits.add_(bias.masked_fill(~valid, float("-inf"))[..., None, :]), value
