"""Keys and values of the finer map: projected after gathering wherever the projection is affine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst.functional._types import FineTokens
from pst.functional.attention import gather_tokens
from pst.modules.fine_statistics import FineStatistics, plain_norm
from pst.modules.projection import Folded, pointwise, project


def split_heads(projected: Tensor, heads: int, parts: int = 1) -> tuple[Tensor, ...]:
    """(B, parts·C, H, W) -> ``parts`` of (B, h, H·W, d), last dimension contiguous; free from channels_last."""
    tokens = projected.permute(0, 2, 3, 1).contiguous()
    batch, height, width, channels = tokens.shape
    tokens = tokens.reshape(batch, height * width, heads, channels // heads).transpose(1, 2)
    return (tokens,) if parts == 1 else tokens.chunk(parts, -1)


def fine_tokens(
    kv: nn.Module, x: Tensor, heads: int, folded: Folded | None, statistics: FineStatistics | None
) -> FineTokens:
    """The function that `pst.functional.pyramid_sparse_attention` asks for fine keys and values.

    Args:
        kv: The projection C -> 2C that both maps share.
        x: Finer map (B, C, H, W).
        heads: h.
        folded: `fold` of ``kv``, or None where it cannot be folded.
        statistics: Of the fine map, where there are any.
    """
    if statistics is not None and is_updated(statistics, kv):
        return gather_tokens(*split_heads(statistics(kv, x), heads, 2))
    correction = _correction(kv, statistics)
    affine = None if folded is None else pointwise(folded)
    if affine is None:  # the statistics of the whole map are wanted, or what its neighbours are
        projected = project(kv, x)
        if correction is not None:
            scale, shift = (t.to(projected.dtype)[:, None, None] for t in correction)
            projected = projected * scale + shift
        return gather_tokens(*split_heads(projected, heads, 2))
    weight, bias = affine
    if correction is not None:
        scale, shift = correction
        weight, bias = (weight * scale[:, None]).to(weight.dtype), (bias * scale + shift).to(bias.dtype)
    return _gather_and_project(x, weight, bias, heads)


def _gather_and_project(x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> FineTokens:
    """Weight (2C, C) and bias (2C) applied to the positions asked for."""
    if heads > 1:
        weight, bias = weight.reshape(heads, -1, weight.shape[1]).transpose(1, 2), bias.reshape(heads, 1, -1)
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, C)

    def gather(index: Tensor) -> tuple[Tensor, Tensor]:
        flat = index.flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])  # one for all heads: see its backward
        picked = tokens.gather(1, flat).reshape(*index.shape, tokens.shape[-1])  # (B, h, T, C)
        projected = F.linear(picked, weight, bias) if heads == 1 else picked @ weight + bias
        key, value = projected.chunk(2, -1)
        return key, value

    return gather


def update_fine_statistics(kv: nn.Module, x: Tensor, statistics: FineStatistics) -> None:
    """Let a pass that needs no fine tokens update the fine map's running statistics, where they are tracked."""
    if is_updated(statistics, kv):
        with torch.no_grad():
            statistics(kv, x)


def is_updated(statistics: FineStatistics, kv: nn.Module) -> bool:
    """Whether this pass updates the statistics: they are tracked, and the BatchNorm is in training mode."""
    if not statistics.tracked:
        return False
    norm = plain_norm(kv)
    return norm is not None and norm.training


def _correction(kv: nn.Module, statistics: FineStatistics | None) -> tuple[Tensor, Tensor] | None:
    """What turns the coarse map's BatchNorm into the fine map's; None without statistics, or with a batch's own."""
    if statistics is None:
        return None
    norm = plain_norm(kv)
    return None if norm is not None and norm.training else statistics.correction(kv)
