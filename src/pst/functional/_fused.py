"""The fast path: `scaled_dot_product_attention` and gathers, no N×M tensor in forward or backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.functional._types import FineTokens, Gate, Inputs
from pst.functional.selection import child_index, select_tokens


def fused(inputs: Inputs, fine: FineTokens | None, gate: Gate | None) -> Tensor:
    """See `pst.functional.pyramid_sparse_attention`, which checks everything this relies on."""
    size = inputs.query.shape[2:4]
    query, key, value = (t.flatten(2, 3) for t in (inputs.query, inputs.key, inputs.value))
    if fine is None:
        out = F.scaled_dot_product_attention(query, key, value, scale=inputs.scale)
        return out.unflatten(2, size)

    selected = select_tokens(
        query, key, inputs.topk, scale=inputs.scale, selection=inputs.selection, generator=inputs.generator
    )
    if inputs.observer is not None:
        inputs.observer(selected)
    index, valid = child_index(selected, inputs.fine_size, inputs.coarse_size)
    fine_key, fine_value = fine(index)
    if inputs.fusion == "refine":
        bias = refinement_bias(selected, index, valid, key.shape[2], query.dtype)
        out = F.scaled_dot_product_attention(
            query,
            torch.cat([key, fine_key.to(key.dtype)], 2),
            torch.cat([value, fine_value.to(value.dtype)], 2),
            attn_mask=bias.expand(-1, -1, query.shape[2], -1),
            scale=inputs.scale,
        )
        return out.unflatten(2, size)

    assert gate is not None  # checked by the caller; tells the type checker
    mask = None if valid is None else valid[:, :, None].expand(-1, -1, query.shape[2], -1)
    coarse_out = F.scaled_dot_product_attention(query, key, value, scale=inputs.scale)
    fine_out = F.scaled_dot_product_attention(query, fine_key, fine_value, attn_mask=mask, scale=inputs.scale)
    return gate_fusion(coarse_out, fine_out, gate).unflatten(2, size)


def gate_fusion(coarse: Tensor, fine: Tensor, gate: Gate) -> Tensor:
    """o = g·o_f + (1 − g)·o_c with g = σ(W [o_c ; o_f] + b) (spec, step 5).

    Works in the (B, N, h, d) memory order that attention kernels write, and never subtracts the two branches, so
    that no float16 intermediate exceeds the larger of them.

    Args:
        coarse: (B, h, N, d).
        fine: (B, h, N, d).
        gate: W (d, 2d) and b (d).
    """
    coarse, fine = coarse.transpose(1, 2), fine.transpose(1, 2)
    g = F.linear(torch.cat([coarse, fine], -1), gate.weight, gate.bias).sigmoid()
    return (g * fine + (1 - g) * coarse).transpose(1, 2)


def refinement_bias(selected: Tensor, index: Tensor, valid: Tensor | None, tokens: int, dtype: torch.dtype) -> Tensor:
    """Logit bias that replaces each selected coarse token by its children (spec, last section).

    Args:
        selected: (B, h, k) flat coarse indices.
        index: (B, h, T) flat fine indices, T/k slots for each selected token.
        valid: (B, h, T) bool, or None when every slot is a child.
        tokens: M.
        dtype: Of the result; that of the query.

    Returns:
        (B, h, 1, M + T): −∞ at selected parents and spare slots, −log n_j at the children of j, else 0.
    """
    coarse = torch.zeros((*selected.shape[:2], tokens), device=selected.device, dtype=dtype)
    coarse = coarse.scatter(-1, selected, float("-inf"))
    slots = index.shape[2] // selected.shape[2]
    children = torch.ones_like(index) if valid is None else valid.long()
    count = children.unflatten(-1, (selected.shape[2], slots)).sum(-1, keepdim=True)
    fine = -count.to(torch.float32).log().expand(-1, -1, -1, slots).flatten(-2)
    if valid is not None:
        fine = fine.masked_fill(~valid, float("-inf"))
    return torch.cat([coarse, fine.to(dtype)], -1)[:, :, None]
