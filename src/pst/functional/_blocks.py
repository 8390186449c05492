"""Attention of blocks of queries that each have fine tokens of their own, a few blocks at a time.

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
from pst.functional.scores import without_autocast

# Logits, or numbers of gathered keys, at a time: what a processor's cache holds; on a GPU, enough for few launches.
AT_WORK = {"cpu": 2**18, "cuda": 2**24}


def applies(inputs: Inputs, fine: FineTokens, selected: Selected) -> bool:
    """Whether `attend_blocks` can do it: nothing is recorded, and no coarse value is NaN or infinite.

    A coarse token that gives way to its children has the weight 0 here, and 0 times NaN would be NaN. A CUDA graph
    cannot hold that look at the values.
    """
    query = inputs.query
    if inputs.pooled_size is not None and inputs.fusion == "refine":
        return False
    if selected.grid is None or selected.valid is not None or query.device.type not in AT_WORK or not is_eager():
        return False
    if query.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return False
    if torch.is_grad_enabled() and any(
        t.requires_grad for t in (query, inputs.key, inputs.value, *_example(fine, query))
    ):
        return False
    try:
        return bool(inputs.value.isfinite().all())
    except RuntimeError:  # torch.vmap has no values to look at
        return False


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
    out = own.new_empty(*own.shape[:-1], inputs.value.shape[-1])
    batch, heads, _, queries, width = own.shape
    children = parents.shape[3] * child_slots(inputs.fine_size, inputs.coarse_size)
    each = batch * heads * max(queries * (inputs.key.shape[2] if joint else children), children * width)
    step = max(1, AT_WORK[own.device.type] // max(1, each))
    wide = torch.promote_types(own.dtype, torch.float32)
    keys, values = inputs.key.to(wide), inputs.value.to(wide)
    with without_autocast(own):
        for begin in range(0, blocks, step):
            part = slice(begin, begin + step)
            query = own[:, :, part].to(wide) * inputs.scale
            parts = [_fine_part(inputs, fine, parents[:, :, part], query, joint)]
            if joint:
                coarse = (query.flatten(2, 3) @ keys.mT).unflatten(2, query.shape[2:4])
                gone = parents[:, :, part, None].expand(-1, -1, -1, queries, -1)
                parts.append((coarse.scatter_(-1, gone, float("-inf")), values))
            out[:, :, part] = _softmax(parts)
    return join_blocks(out.flatten(1, 2), inputs.query_size, selected.grid)


def _softmax(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One softmax over logits (B, h, g, n, …) in several parts, which are overwritten, each with values of its own.

    Values are (B, h, g, …, d), or (B, h, …, d) for all g. Like PyTorch's attention 0 where every logit is −∞.
    """
    highest = torch.stack([logits.amax(-1, keepdim=True) for logits, _ in parts]).amax(0)
    highest.masked_fill_(highest == float("-inf"), 0)
    mass, total = 0, 0
    for logits, value in parts:
        weight = logits.sub_(highest).exp_()
        mass = mass + weight.sum(-1, keepdim=True)
        shared = value.ndim < weight.ndim  # as one product: a batched one would copy the values for each g
        rows = weight.flatten(2, 3) if shared else weight
        product = rows @ value
        total = total + (product.unflatten(2, weight.shape[2:4]) if shared else product)
    assert isinstance(mass, Tensor)  # tells the type checker
    return total / mass.clamp_min(torch.finfo(mass.dtype).tiny)


def _fine_part(inputs: Inputs, fine: FineTokens, parents: Tensor, query: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
    """Logits (B, h, g, n, T) and values of each block's children; those of a parent share its weight if ``joint``."""
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
