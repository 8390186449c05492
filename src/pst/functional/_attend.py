"""One softmax attention by PyTorch's own operators, whatever the size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.functional.checks import is_eager

FEW = 16  # keys: with fewer than a CPU's vector holds, PyTorch's attention makes 0 of a row of NaN if it has no mask
SPLIT = 2**18  # logits from which a backward pass is worth sharing among threads


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *, scale: float) -> Tensor:
    """softmax(q·kᵀ·scale + bias)·v without an N×M tensor.

    The backward pass of PyTorch's attention for CPUs gives each head of each image to one thread. Where these are
    fewer than the threads, blocks of queries become images of their own; their keys' gradients are summed.

    Args:
        query: (B, h, N, d).
        key: (B, h, M, d).
        value: (B, h, M, e).
        bias: Added to the logits of each key, (B, h, M), or None.
        scale: Factor on the logits.

    Returns:
        (B, h, N, e).
    """
    if is_eager():  # else PyTorch's attention would form the logits
        query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
    if (width := value.shape[-1]) != query.shape[-1]:  # PyTorch's attention would form the logits
        most = max(width, query.shape[-1])
        query, key, value = (F.pad(t, (0, most - t.shape[-1])) for t in (query, key, value))
        return softmax_attention(query, key, value, bias, scale=scale)[..., :width]
    if is_eager() and bias is None and key.shape[2] < FEW and query.device.type == "cpu":  # no guard on a size
        bias = query.new_zeros(key.shape[:3])
    mask = None if bias is None else bias[:, :, None]
    blocks = _blocks(query, key)
    if blocks == 1:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    batch, heads, tokens, width = query.shape
    own = query.transpose(1, 2).reshape(batch * blocks, tokens // blocks, heads, width).transpose(1, 2)
    mask = None if mask is None else _repeat(mask, blocks)
    out = F.scaled_dot_product_attention(own, _repeat(key, blocks), _repeat(value, blocks), attn_mask=mask, scale=scale)
    return out.transpose(1, 2).reshape(batch, tokens, heads, width).transpose(1, 2)


def _blocks(query: Tensor, key: Tensor) -> int:
    """How many equal blocks of queries give every thread work in the backward pass; 1 where that is not a concern."""
    if not query.requires_grad or query.device.type != "cpu" or not torch.is_grad_enabled() or not is_eager():
        return 1
    heads, tokens = query.shape[0] * query.shape[1], query.shape[2]
    if heads * tokens * key.shape[2] < SPLIT:
        return 1
    wanted = -(-torch.get_num_threads() // heads)
    return next(n for n in range(wanted, 0, -1) if tokens % n == 0)


def _repeat(t: Tensor, blocks: int) -> Tensor:
    """(B, …) -> (B·blocks, …), each image ``blocks`` times side by side."""
    return t[:, None].expand(-1, blocks, *t.shape[1:]).flatten(0, 1)
