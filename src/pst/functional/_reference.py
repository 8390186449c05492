"""The slow, readable definition of correct: the paper's formulas, one image and head at a time.

Forms the full N×M logits and finds children by searching the parent map, so it shares no shortcut with the fused
path. Use it as an oracle, in float64.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from pst.functional._rule import ranked
from pst.functional._types import FineTokens, Gate, Inputs, check_gated
from pst.functional.grid import Size, parent_index
from pst.functional.scores import gumbel_scores, rounded, without_autocast
from pst.functional.selection import Gumbel, Mass, Mean, Nearest, Nucleus, Query, Random, Window, selected_by


def reference(inputs: Inputs, fine: FineTokens | None, gate: Gate | None) -> Tensor:
    """See `pst.functional.pyramid_sparse_attention`, which checks everything this relies on.

    Computes in float32 at least; the gate alone is given the query's dtype.
    """
    query, key, value = (_wide(t) for t in (inputs.query, inputs.key, inputs.value))
    with without_autocast(query):
        logits = torch.einsum("bhnd,bhmd->bhnm", query, key) * inputs.scale
        holder = None if inputs.pooled_size is None else parent_index(inputs.coarse_size, inputs.pooled_size)
        if holder is None:
            coarse = _softmax(logits) @ value
        else:
            averaged = torch.einsum("bhnd,bhmd->bhnm", query, _averaged(key, holder)) * inputs.scale
            coarse = _softmax(averaged) @ _averaged(value, holder)
        if fine is None:
            return coarse.to(inputs.query.dtype)
        out = _with_children(inputs, fine, logits, holder)
    if inputs.fusion == "gate":
        assert gate is not None  # checked by the caller; tells the type checker
        branches = torch.cat([coarse, out], -1).to(inputs.query.dtype)
        g = _wide(check_gated(gate(branches), coarse)).sigmoid()
        out = g * out + (1 - g) * coarse
    return out.to(inputs.query.dtype)


def _with_children(inputs: Inputs, fine: FineTokens, logits: Tensor, holder: Tensor | None) -> Tensor:
    """The fine branch of "gate", or the joint softmax of "refine".

    Args:
        inputs: Maps and settings.
        fine: The fine tokens.
        logits: (B, h, N, M), those of coarse keys.
        holder: (M,) the pooled token of each coarse one; None where they are not bounded.
    """
    query, value = _wide(inputs.query), _wide(inputs.value)
    with torch.no_grad():
        selected, grid = _select(inputs, logits)
    if inputs.observer is not None:
        inputs.observer(selected[:, :, 0] if grid is None else selected)
    block = _block_of(inputs.query_size, (1, 1) if grid is None else grid).to(query.device)
    owner = parent_index(inputs.fine_size, inputs.coarse_size, device=query.device)
    everywhere = torch.arange(len(owner), device=query.device).expand(*query.shape[:2], -1)
    fine_key, fine_value = (_wide(t) for t in fine(everywhere))
    fine_logits = torch.einsum("bhnd,bhmd->bhnm", query, fine_key) * inputs.scale

    out = value.new_empty(*query.shape[:3], value.shape[3])
    for b, head, i in torch.cartesian_prod(*(torch.arange(n) for n in selected.shape[:3])).tolist():
        here = block == i
        chosen = selected[b, head, i]
        chosen = chosen[chosen >= 0]
        children = torch.isin(owner, chosen)
        fine_part = fine_logits[b, head][here][:, children], fine_value[b, head][children]
        if inputs.fusion == "gate":
            out[b, head, here] = _softmax(fine_part[0]) @ fine_part[1]
        else:
            args = (logits[b, head][here], value[b, head], *fine_part)
            if holder is None:
                out[b, head, here] = _refined(*args, chosen, owner[children])
            else:
                key = _wide(inputs.key)[b, head]
                averaged = query[b, head][here] @ _averaged(key, holder).mT * inputs.scale
                out[b, head, here] = _opened(averaged, *args, chosen, owner[children], holder.to(key.device))
    return out


def _softmax(logits: Tensor) -> Tensor:
    """Of each row; like PyTorch's attention 0 where every logit is −∞."""
    return logits.softmax(-1).masked_fill((logits == float("-inf")).all(-1, keepdim=True), 0)


def _wide(t: Tensor) -> Tensor:
    """In float32 at least."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _select(inputs: Inputs, logits: Tensor) -> tuple[Tensor, Size | None]:
    """Every rule of `pst.functional.selection` as its definition reads; any other rule is asked.

    Args:
        inputs: Maps and settings.
        logits: (B, h, N, M).

    Returns:
        (B, h, G, min(k, M)) flat coarse indices for each of G blocks of queries, highest score first, −1 where
        unused; and the rows and columns of blocks. Where all queries share one selection G = 1 and these are None.
    """
    rule, (height, width) = inputs.rule, inputs.query_size
    if not isinstance(rule, (Gumbel, Mass, Mean, Nearest, Nucleus, Query, Random, Window)):
        asked = selected_by(rule, inputs.tokens())
        return asked.marked() if asked.grid is not None else asked.marked()[:, :, None], asked.grid
    grid = inputs.query_size if isinstance(rule, Query) else None
    if isinstance(rule, (Nearest, Random, Window)) and rule.grid is not None:
        grid = (min(rule.grid, height), min(rule.grid, width))
    block = _block_of(inputs.query_size, (1, 1) if grid is None else grid).to(logits.device)
    of_blocks = [_scores(inputs, logits[:, :, block == i], int(i), grid) for i in block.unique()]
    scores = ranked(torch.stack(of_blocks, 2))
    selected = scores.argsort(dim=-1, descending=True, stable=True)[..., : inputs.topk]
    return _nucleus(scores, selected, rule.p) if isinstance(rule, Nucleus) else selected, grid


def _scores(inputs: Inputs, logits: Tensor, block: int, grid: Size | None) -> Tensor:
    """(B, h, M) scores of the tokens for the queries of a block, whose logits are given."""
    if isinstance(inputs.rule, Gumbel):
        return gumbel_scores(inputs.query, inputs.key, inputs.scale, inputs.generator)
    if isinstance(inputs.rule, Mass):
        return rounded(logits.softmax(-1).mean(2))
    if isinstance(inputs.rule, Random):
        return _random_scores(inputs.rule.seed, logits, () if grid is None else (block,))
    if isinstance(inputs.rule, Nearest):
        assert grid is not None
        near = _nearness(block, grid, inputs.coarse_size)
        return torch.tensor(near, dtype=torch.float64, device=logits.device).expand(*logits.shape[:2], -1)
    return logits.mean(2)


def _nucleus(scores: Tensor, selected: Tensor, p: float) -> Tensor:
    """``selected`` with −1 from the slot on before which the softmax of the scores has reached ``p``."""
    selected = selected.clone()
    for row, mass in zip(selected.flatten(0, 2), scores.softmax(-1).flatten(0, 2), strict=True):
        reached = 0.0
        for slot, token in enumerate(row.tolist()):
            if reached >= p:
                row[slot] = -1
            reached += mass[token].item()
    return selected


def _block_of(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """(N,) block of each query."""
    (height, width), (rows, columns) = size, grid
    return torch.tensor(
        [y * rows // height * columns + x * columns // width for y in range(height) for x in range(width)]
    )


def _nearness(block: int, grid: Size, coarse_size: Size) -> list[float]:
    """Minus the squared distance, in coarse positions, of each coarse token's centre from that of the block."""
    half = Fraction(1, 2)
    y, x = ((i + half) * n / blocks for i, n, blocks in zip(divmod(block, grid[1]), coarse_size, grid, strict=True))
    distance = [
        (row + half - y) ** 2 + (column + half - x) ** 2
        for row in range(coarse_size[0])
        for column in range(coarse_size[1])
    ]
    return [-float(d) for d in distance]


def _random_scores(seed: int, logits: Tensor, block: tuple[int, ...]) -> Tensor:
    """(B, h, M) int64, every image alike: Python's integers, one head and token at a time."""
    batch, heads, _, tokens = logits.shape
    scores = torch.empty(batch, heads, tokens, dtype=torch.int64, device=logits.device)
    prime = 2**31 - 1
    for head in range(heads):
        for token in range(tokens):
            x = seed % prime
            for offset in (1, head, *block, token, 1):
                x = pow(x * 48271 + offset, 5, prime)
            scores[:, head, token] = x
    return scores


def _averaged(tokens: Tensor, holder: Tensor) -> Tensor:
    """(…, M, d) -> (…, P, d): the mean of the coarse tokens that each pooled one holds."""
    return torch.stack([tokens[..., holder.to(tokens.device) == p, :].mean(-2) for p in holder.unique().tolist()], -2)


def _opened(
    averaged: Tensor, logits: Tensor, value: Tensor, fine_logits: Tensor, fine_value: Tensor, chosen: Tensor,
    owner: Tensor, holder: Tensor,
) -> Tensor:  # fmt: skip
    """docs/method.md, "Fewer coarse tokens": pooled tokens without chosen ones, the others inside, and the children."""
    inside = torch.bincount(holder)[holder].to(logits.dtype).log()
    gone = torch.zeros(averaged.shape[1], dtype=torch.bool, device=value.device)
    gone[holder[chosen]] = True
    others = gone[holder]
    others[chosen] = False
    siblings = torch.bincount(owner, minlength=len(value))[owner].to(logits.dtype).log()
    joint = [averaged[:, ~gone], (logits - inside)[:, others], fine_logits - siblings - inside[owner]]
    return _softmax(torch.cat(joint, -1)) @ torch.cat([_averaged(value, holder)[~gone], value[others], fine_value])


def _refined(
    logits: Tensor, value: Tensor, fine_logits: Tensor, fine_value: Tensor, chosen: Tensor, owner: Tensor
) -> Tensor:
    """docs/method.md, "Refine": one softmax over the tokens not chosen and the children of the chosen."""
    kept = torch.ones(len(value), dtype=torch.bool, device=value.device)
    kept[chosen] = False
    siblings = torch.bincount(owner, minlength=len(value))[owner]
    joint = torch.cat([logits[:, kept], fine_logits - siblings.to(logits.dtype).log()], -1)
    return _softmax(joint) @ torch.cat([value[kept], fine_value])
