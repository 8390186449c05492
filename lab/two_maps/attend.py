"""One row applied to one pair of maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.two_maps.rows import Row
from pst.functional import pyramid_sparse_attention
from pst.functional.grid import child_means
from pst.propagate import carry

AT_WORK = 264  # queries at a time


def apply(row: Row, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Carry a value to the places of the queries.

    Args:
        row: The way.
        query: Features of the later frame, (C, H, W).
        key: Features of the earlier one, (C, Hf, Wf).
        value: What is there, (K, Hf, Wf).
        scale: Factor on the logits.

    Returns:
        (K, H, W).
    """
    if row.whole():
        return everything(query, key, value, scale)
    if row.plain():
        return carry(
            query, key[None], value[None], topk=row.topk, ratio=row.ratio, scale=scale, selection=row.selection
        )
    return attend(row, query, key, value, scale)


def attend(row: Row, query: Tensor, key: Tensor, value: Tensor, scale: float | Tensor) -> Tensor:
    """The same for every row, and for a scale with a gradient: one call of the op."""
    size = row.size((key.shape[1], key.shape[2]))
    if row.unit:
        query, key = F.normalize(query, dim=0), F.normalize(key, dim=0)
    if row.tokens == "mean":
        coarse_key, coarse_value = child_means(key[None], size)[0], child_means(value[None], size)[0]
    else:
        half = row.ratio // 2
        coarse_key, coarse_value = (t[:, half :: row.ratio, half :: row.ratio] for t in (key, value))
    if row.unit:
        coarse_key = F.normalize(coarse_key, dim=0)
    if isinstance(scale, Tensor):
        query, scale = query * scale, 1.0
    width = -(-query.shape[0] // 16) * 16
    zeros = torch.zeros(value.shape[0], 2 * value.shape[0])  # a gate of σ(0) = 0.5
    out = pyramid_sparse_attention(
        _tokens(query, width),
        _tokens(coarse_key, width),
        _tokens(coarse_value),
        (_tokens(key, width), _tokens(value)) if row.topk > 0 else None,
        topk=row.topk,
        fusion="gate" if row.fusion == "half" else "refine",
        gate=(zeros, zeros[:, 0]) if row.fusion == "half" and row.topk > 0 else None,
        selection=row.selection,
        scale=scale,
    )
    return out[0, 0].permute(2, 0, 1)


def everything(query: Tensor, key: Tensor, value: Tensor, scale: float | Tensor) -> Tensor:
    """Attention to all fine positions by two plain products for some rows of queries at a time.

    The same as the op's with the coarse map as large as the fine one. It is faster where keys are much wider than
    values, for PyTorch's attention, which the op calls, wants them of one width.
    """
    queries = (F.normalize(query, dim=0) * scale).flatten(1).mT
    keys = F.normalize(key, dim=0).flatten(1).contiguous()
    values = F.pad(value.flatten(1), (0, 0, 0, 1), value=1.0).mT.contiguous()  # the ones sum up the weights
    parts = []
    for some in queries.split(AT_WORK):
        logits = some @ keys
        parts.append(logits.sub_(logits.amax(1, keepdim=True)).exp_() @ values)
    out = torch.cat(parts).mT
    return (out[:-1] / out[-1:]).unflatten(1, query.shape[1:])


def _tokens(maps: Tensor, width: int = 0) -> Tensor:
    """(C, H, W) -> (1, 1, H, W, C), zeros behind the channels up to ``width``."""
    # contiguous: PyTorch's attention would form the logits of a tensor whose channels are apart
    return F.pad(maps.permute(1, 2, 0), (0, max(0, width - maps.shape[0]))).contiguous()[None, None]
