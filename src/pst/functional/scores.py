"""Scores of coarse tokens. None of them forms the N×M logits; all are float32 at least (float64 for float64).

Letters: B batch, h heads, d head width, N query tokens, M coarse tokens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from pst.functional.grid import Size, block_index

_PRIME = 2**31 - 1  # x -> x⁵ permutes the residues of this one, and a product of two residues fits an int64


def mean_logit_scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Mean over all queries of the attention logits, without forming the N×M logits (docs/method.md, step 3).

    Uses mean_i(q_i·k_j) = (mean_i q_i)·k_j.

    Args:
        query: (B, h, N, d).
        key: (B, h, M, d).
        scale: Factor on every logit, usually 1/√d.

    Returns:
        (B, h, M) scores.
    """
    dtype = query.dtype
    if dtype in (torch.float16, torch.bfloat16):
        dtype, key = torch.float32, key.float()
    total = query.sum(-2, keepdim=True, dtype=dtype)
    return (total * key).sum(-1) / query.shape[-2] * scale  # divided last: of whole numbers equal sums stay equal


def gumbel_scores(query: Tensor, key: Tensor, scale: float, generator: torch.Generator | None = None) -> Tensor:
    """`mean_logit_scores` plus standard Gumbel noise −log E, E ~ Exp(1). For training studies only."""
    scores = mean_logit_scores(query, key, scale)
    return scores - torch.empty_like(scores).exponential_(generator=generator).log()


def mass_scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention that each coarse token receives: mean over all queries of the attention probabilities.

    Exact, in three calls of attention and O((N + M)·d) memory. Attention returns weighted means and no normaliser, but
    one more key of known logit, the sink, gives it away. First call: t_i, the expected logit of each query, which lies
    at most log M below the logarithm of Z_i = Σ_j exp(s_ij). Second call: Z_i, from the attention to a sink of logit
    t_i, exp(t_i) / (exp(t_i) + Z_i). Third call, keys and queries exchanged: Σ_i exp(s_ij) / Z_i in the same manner.

    Args:
        query: (B, h, N, d).
        key: (B, h, M, d).
        scale: Factor on every logit, usually 1/√d.

    Returns:
        (B, h, M), non-negative, sums to 1 over the tokens.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(dtype), key.to(dtype)
    with without_autocast(query):
        expected = (F.scaled_dot_product_attention(query, key, key, scale=scale) * query).sum(-1, keepdim=True)
        # One more coordinate gives the sink its logit; a multiple of 8 keeps the kernels of GPUs in use.
        sink = F.pad(torch.ones_like(key[..., :1, :1]), (key.shape[-1] + 7, 0))
        sink_share = F.scaled_dot_product_attention(
            torch.cat([F.pad(query, (0, 7)), expected], -1),
            torch.cat([F.pad(key, (0, 8)), sink], -2),
            torch.cat([torch.zeros_like(F.pad(key, (0, 8))), sink], -2),
            scale=scale,
        )[..., -1]
        normaliser = expected[..., 0] * scale + torch.log1p(-sink_share) - sink_share.log()  # log Z
        sink_logit = torch.ones_like(normaliser).sum(-1, keepdim=True).log()  # log N: no share exceeds a half
        zero = torch.zeros_like(query[..., :1, :])
        share = F.scaled_dot_product_attention(
            key,
            torch.cat([query, zero], -2),
            torch.cat([torch.ones_like(query), zero], -2),
            attn_mask=torch.cat([-normaliser, sink_logit], -1)[..., None, :],
            scale=scale,
        )[..., 0]
    return share / (1 - share)


def rounded(scores: Tensor) -> Tensor:
    """Scores to 13 binary digits: those that rounding errors alone tell apart tie, and are taken in index order.

    Where attention is all but one-hot, many tokens have the same score, and its error is that of a logarithm.
    """
    spread = scores * (2.0 ** (11 if scores.dtype == torch.float32 else 40) + 1)  # Veltkamp's splitting
    return spread - (spread - scores)


def block_scores(query: Tensor, key: Tensor, scale: float, size: Size, grid: Size) -> Tensor:
    """`mean_logit_scores` of each block of queries by itself.

    Args:
        query: (B, h, N, d), N = H·W.
        key: (B, h, M, d).
        scale: Factor on every logit, usually 1/√d.
        size: (H, W).
        grid: Rows and columns of blocks; G = rows·columns.

    Returns:
        (B, h, G, M) scores.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    index, valid = block_index(size, grid, query.device)
    blocks = query.index_select(2, index.flatten()).to(dtype)
    blocks = blocks.reshape(*query.shape[:2], *index.shape, query.shape[3])
    if valid is None:
        total, count = blocks.sum(-2), blocks.shape[-2]
    else:
        total, count = (blocks * valid[..., None]).sum(-2), valid.sum(-1, keepdim=True)
    with without_autocast(query):  # divided last: of whole numbers equal sums stay equal
        return total @ key.to(dtype).transpose(-2, -1) / count * scale


def nearness_scores(coarse_size: Size, grid: Size, device: torch.device | None = None) -> Tensor:
    """How near coarse tokens lie to the centre of each block of queries, both maps laid over each other.

    Minus the square of the distance in coarse positions, times (rows·columns)²: integers, so that ties are ties.

    Args:
        coarse_size: (Hu, Wu).
        grid: Rows and columns of blocks; G = rows·columns.
        device: Where the result lives.

    Returns:
        (G, Hu·Wu) int64 scores.
    """
    (rows, columns), (height, width) = grid, coarse_size
    block, token = (torch.arange(n, device=device) for n in (rows * columns, height * width))
    row, token_row = block // columns, token // width
    y = (2 * row + 1)[:, None] * height - (2 * token_row + 1) * rows
    x = (2 * (block - row * columns) + 1)[:, None] * width - (2 * (token - token_row * width) + 1) * columns
    return -((y * columns) ** 2) - (x * rows) ** 2


def random_scores(key: Tensor, seed: int, blocks: int | None = None) -> Tensor:
    """Numbers that depend on the seed, the head, the block and the token's index alone: the same on every device.

    Residues modulo a prime; one after the other these enter, each scrambled by a fifth power.

    Args:
        key: (B, h, M, d), of which the sizes and the device matter.
        seed: Any integer.
        blocks: G, of queries; None where all queries have the same tokens.

    Returns:
        (B, h, M) int64 scores, or (B, h, G, M); every image has the same.
    """
    batch, heads, tokens = key.shape[:3]
    head, token = (torch.arange(n, device=key.device) for n in (heads, tokens))
    offsets = (1, head[:, None], token, 1)
    if blocks is not None:
        offsets = (1, head[:, None, None], torch.arange(blocks, device=key.device)[:, None], token, 1)
    x = torch.zeros_like(head[:1]) + seed % _PRIME
    for offset in offsets:
        x = (x * 48271 + offset) % _PRIME
        x = x * (x * x % _PRIME * x % _PRIME * x % _PRIME) % _PRIME
    return x.expand(batch, *x.shape)


def without_autocast(t: Tensor) -> AbstractContextManager[object]:
    """Keeps matrix products in the dtype of their arguments; meta tensors have no autocast."""
    if not t.is_meta and torch.is_autocast_enabled(t.device.type):
        return torch.autocast(t.device.type, enabled=False)
    return nullcontext()
