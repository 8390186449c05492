"""The fast path: `scaled_dot_product_attention` and gathers, no N×M tensor in forward or backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.functional._types import FineTokens, Gate, Inputs
from pst.functional.selection import child_index, child_slots, select_tokens


def fused(inputs: Inputs, fine: FineTokens | None, gate: Gate | None) -> Tensor:
    """See `pst.functional.pyramid_sparse_attention`, which checks everything this relies on."""
    size = inputs.fine_size
    query, key, value = (t.flatten(2, 3) for t in (inputs.query, inputs.key, inputs.value))
    if fine is None:
        out = F.scaled_dot_product_attention(query, key, value, scale=inputs.scale)
        return _unflatten(out, size)

    selected = select_tokens(
        query, key, inputs.topk, scale=inputs.scale, selection=inputs.selection, generator=inputs.generator
    )
    if inputs.observer is not None:
        inputs.observer(selected)
    index, valid = child_index(selected, inputs.fine_size, inputs.coarse_size)
    fine_key, fine_value = fine(index)
    if inputs.fusion == "refine":
        valid = torch.ones_like(index, dtype=torch.bool) if valid is None else valid
        slots = child_slots(inputs.fine_size, inputs.coarse_size)
        bias = refinement_bias(selected, valid, slots, key.shape[2], query.dtype)
        out = F.scaled_dot_product_attention(
            query,
            torch.cat([key, fine_key.to(key.dtype)], 2),
            torch.cat([value, fine_value.to(value.dtype)], 2),
            attn_mask=bias,
            scale=inputs.scale,
        )
        return _unflatten(out, size)

    assert gate is not None  # checked by the caller; tells the type checker
    mask = None if valid is None else _exclusion_bias(valid, query.dtype)[:, :, None]
    coarse_out = F.scaled_dot_product_attention(query, key, value, scale=inputs.scale)
    fine_out = F.scaled_dot_product_attention(query, fine_key, fine_value, attn_mask=mask, scale=inputs.scale)
    return _unflatten(gate_fusion(coarse_out, fine_out, gate), size)


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


def refinement_bias(selected: Tensor, valid: Tensor, slots: int, tokens: int, dtype: torch.dtype) -> Tensor:
    """Logit bias that replaces each selected coarse token by its children (spec, last section).

    Args:
        selected: (B, h, k) flat coarse indices.
        valid: (B, h, T) bool, which of the slots are children.
        slots: T/k, slots of each selected token.
        tokens: M.
        dtype: Of the result; that of the query.

    Returns:
        (B, h, 1, M + T): −∞ at selected parents and spare slots, −log n_j at the children of j, else 0.
    """
    coarse = torch.zeros((*selected.shape[:2], tokens), device=selected.device, dtype=dtype)
    coarse = coarse.scatter(-1, selected, float("-inf"))
    # -1, not k: an exported program may meet a coarse map of fewer than k tokens
    count = valid.unflatten(-1, (-1, slots)).sum(-1, keepdim=True)
    fine = -count.to(torch.promote_types(dtype, torch.float32)).log().to(dtype).expand(-1, -1, -1, slots).flatten(-2)
    return torch.cat([coarse, fine + _exclusion_bias(valid, dtype)], -1)[:, :, None]


def _exclusion_bias(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where ``valid``, else −∞. A bool mask would do, but attention expands one to (B, h, N, T) in memory."""
    return torch.zeros_like(valid, dtype=dtype).masked_fill(~valid, float("-inf"))


def _unflatten(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, H·W, d) -> (B, h, H, W, d). Unlike Tensor.unflatten, keeps a traced size dynamic in TorchScript."""
    return tokens.reshape(*tokens.shape[:2], *size, tokens.shape[-1])
