"""Triton kernels of the attention and its gradients. Letters as in `pst.functional.pyramid_sparse_attention`.

One program handles a block of queries of one image and head (`forward_kernel`, `query_gradient_kernel`) or a block of
keys (`key_gradient_kernel`). Logits are in units of log 2, because exp2 is one instruction. All memory offsets of a
program are from the base of its image and head, and those bases are 64-bit. Queries, keys and values have a contiguous
last dimension; what the kernels write has the memory order (B, N, h, d), bias (B·h, length), log-sum-exps (B·h, N).
Tokens whose logit bias is −∞ take no part, whatever is in them: no NaN or infinity of theirs goes anywhere.
"""

# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false
# Triton compiles these functions for constants it knows; a type checker does not know them.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _attend(
    query, k, v, bias, tokens, stride, scale, acc, peak, total,
    D: tl.constexpr, BLOCK: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax over one set of keys, on top of ``acc``, ``peak`` and ``total`` of the keys before."""
    columns = tl.arange(0, D)
    for start in range(0, tokens, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        inside = rows < tokens
        offsets = rows[:, None] * stride + columns[None, :]
        key = tl.load(k + offsets, mask=inside[:, None], other=0.0)
        value = tl.load(v + offsets, mask=inside[:, None], other=0.0)
        counts = inside
        if BIASED:
            logit_bias = tl.load(bias + rows, mask=inside, other=0.0).to(tl.float32) * 1.4426950408889634
            counts = inside & (logit_bias > float("-inf"))
            key, value = tl.where(counts[:, None], key, 0.0), tl.where(counts[:, None], value, 0.0)
        logits = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        if BIASED:
            logits += logit_bias[None, :]
        logits = tl.where(counts[None, :], logits, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # no key yet that counts
        weight = tl.exp2(logits - shift[:, None])
        shrink = tl.exp2(peak - shift)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(value.dtype), value, acc * shrink[:, None], input_precision=PRECISION)
        peak = new_peak
    return acc, peak, total


@triton.jit
def forward_kernel(
    q, k, v, fk, fv, weight, shift, bias, out, branches, lse,
    q_image, q_head, q_stride, k_image, k_head, k_stride, f_image, f_head, f_stride,
    heads, queries, tokens, fine_tokens, bias_length, scale, branch_size, lse_size,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr,
    FINE: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Coarse keys, fine keys, gate. Without GATED the fine keys join the softmax of the coarse ones."""
    blocks = tl.cdiv(queries, BLOCK_Q)
    pair = (tl.program_id(0) // blocks).to(tl.int64)  # image and head
    image, head = pair // heads, pair % heads
    rows = (tl.program_id(0) % blocks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    inside = rows < queries
    columns = tl.arange(0, D)
    query = tl.load(
        q + image * q_image + head * q_head + rows[:, None] * q_stride + columns[None, :],
        mask=inside[:, None], other=0.0,
    )  # fmt: skip
    acc = tl.zeros([BLOCK_Q, D], tl.float32)
    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    bias += pair * bias_length
    base = image * k_image + head * k_head
    acc, peak, total = _attend(
        query, k + base, v + base, bias, tokens, k_stride, scale, acc, peak, total,
        D, BLOCK_K, BIASED and not GATED, PRECISION,
    )  # fmt: skip
    written = image * queries * heads * D + head * D + rows[:, None] * (heads * D) + columns[None, :]
    if FINE:
        base = image * f_image + head * f_head
        if GATED:
            coarse = (acc / total[:, None]).to(query.dtype)
            if SAVE:
                tl.store(branches + written, coarse, mask=inside[:, None])
                tl.store(lse + pair * queries + rows, peak + tl.log2(total), mask=inside)
                lse += lse_size
            acc = tl.zeros([BLOCK_Q, D], tl.float32)
            peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
            total = tl.zeros([BLOCK_Q], tl.float32)
        else:
            bias += tokens
        acc, peak, total = _attend(
            query, fk + base, fv + base, bias, fine_tokens, f_stride, scale, acc, peak, total,
            D, BLOCK_F, BIASED, PRECISION,
        )  # fmt: skip
    result = acc / total[:, None]
    if SAVE:
        tl.store(lse + pair * queries + rows, peak + tl.log2(total), mask=inside)
    if GATED:
        fine = result.to(query.dtype)
        if SAVE:
            tl.store(branches + branch_size + written, fine, mask=inside[:, None])
        matrix = weight + columns[:, None] + columns[None, :] * (2 * D)  # W transposed: its coarse half
        gate = tl.dot(coarse, tl.load(matrix), input_precision=PRECISION)
        gate = tl.dot(fine, tl.load(matrix + D), gate, input_precision=PRECISION)
        gate = 1 / (1 + tl.exp2(-1.4426950408889634 * (gate + tl.load(shift + columns).to(tl.float32)[None, :])))
        result = gate * fine.to(tl.float32) + (1 - gate) * coarse.to(tl.float32)
    tl.store(out + written, result.to(query.dtype), mask=inside[:, None])


@triton.jit
def _query_gradient(
    gradient, query, upstream, lse, delta, k, v, bias, tokens, stride, scale,
    D: tl.constexpr, BLOCK: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds to ``gradient`` that of the queries through one set of keys, divided by the factor on the logits."""
    columns = tl.arange(0, D)
    for start in range(0, tokens, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        inside = rows < tokens
        offsets = rows[:, None] * stride + columns[None, :]
        key = tl.load(k + offsets, mask=inside[:, None], other=0.0)
        value = tl.load(v + offsets, mask=inside[:, None], other=0.0)
        counts = inside
        if BIASED:
            logit_bias = tl.load(bias + rows, mask=inside, other=0.0).to(tl.float32) * 1.4426950408889634
            counts = inside & (logit_bias > float("-inf"))
            key, value = tl.where(counts[:, None], key, 0.0), tl.where(counts[:, None], value, 0.0)
        logits = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        if BIASED:
            logits += logit_bias[None, :]
        weight = tl.where(counts[None, :], tl.exp2(logits - lse[:, None]), 0.0)
        slope = weight * (tl.dot(upstream, tl.trans(value), input_precision=PRECISION) - delta[:, None])
        gradient = tl.dot(slope.to(key.dtype), key, gradient, input_precision=PRECISION)
    return gradient


@triton.jit
def query_gradient_kernel(
    q, k, v, fk, fv, bias, results, upstreams, lse, delta, gradient,
    q_image, q_head, q_stride, k_image, k_head, k_stride, f_image, f_head, f_stride,
    heads, queries, tokens, fine_tokens, bias_length, scale, factor, branch_size, lse_size,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr,
    FINE: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries; also writes delta, the product of each result with its gradient, for the keys."""
    blocks = tl.cdiv(queries, BLOCK_Q)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    image, head = pair // heads, pair % heads
    rows = (tl.program_id(0) % blocks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    inside = rows < queries
    columns = tl.arange(0, D)
    query = tl.load(
        q + image * q_image + head * q_head + rows[:, None] * q_stride + columns[None, :],
        mask=inside[:, None], other=0.0,
    )  # fmt: skip
    written = image * queries * heads * D + head * D + rows[:, None] * (heads * D) + columns[None, :]
    upstream = tl.load(upstreams + written, mask=inside[:, None], other=0.0)
    result = tl.load(results + written, mask=inside[:, None], other=0.0)
    row_delta = tl.sum(upstream.to(tl.float32) * result.to(tl.float32), 1)
    row_lse = tl.load(lse + pair * queries + rows, mask=inside, other=float("inf"))
    tl.store(delta + pair * queries + rows, row_delta, mask=inside)
    bias += pair * bias_length
    base = image * k_image + head * k_head
    total = _query_gradient(
        tl.zeros([BLOCK_Q, D], tl.float32), query, upstream, row_lse, row_delta, k + base, v + base, bias,
        tokens, k_stride, scale, D, BLOCK_K, BIASED and not GATED, PRECISION,
    )  # fmt: skip
    if FINE:
        base = image * f_image + head * f_head
        if GATED:
            upstream = tl.load(upstreams + branch_size + written, mask=inside[:, None], other=0.0)
            result = tl.load(results + branch_size + written, mask=inside[:, None], other=0.0)
            row_delta = tl.sum(upstream.to(tl.float32) * result.to(tl.float32), 1)
            row_lse = tl.load(lse + lse_size + pair * queries + rows, mask=inside, other=float("inf"))
            tl.store(delta + lse_size + pair * queries + rows, row_delta, mask=inside)
        else:
            bias += tokens
        total = _query_gradient(
            total, query, upstream, row_lse, row_delta, fk + base, fv + base, bias,
            fine_tokens, f_stride, scale, D, BLOCK_F, BIASED, PRECISION,
        )  # fmt: skip
    tl.store(gradient + written, (total * factor).to(query.dtype), mask=inside[:, None])


@triton.jit
def key_gradient_kernel(
    q, k, v, bias, upstreams, lse, delta, key_gradient, value_gradient,
    q_image, q_head, q_stride, k_image, k_head, k_stride,
    pairs, heads, queries, tokens, bias_length, scale, factor, share,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values through ``share`` of the queries: (splits, B·h, tokens, d), in float32."""
    blocks = tl.cdiv(tokens, BLOCK_K)
    split = tl.program_id(0) // blocks // pairs
    pair = (tl.program_id(0) // blocks % pairs).to(tl.int64)
    image, head = pair // heads, pair % heads
    rows = (tl.program_id(0) % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = rows < tokens
    columns = tl.arange(0, D)
    offsets = image * k_image + head * k_head + rows[:, None] * k_stride + columns[None, :]
    key = tl.load(k + offsets, mask=inside[:, None], other=0.0)
    value = tl.load(v + offsets, mask=inside[:, None], other=0.0)
    if BIASED:
        logit_bias = tl.load(bias + pair * bias_length + rows, mask=inside, other=0.0).to(tl.float32)
        logit_bias *= 1.4426950408889634
        counts = logit_bias > float("-inf")
        key, value = tl.where(counts[:, None], key, 0.0), tl.where(counts[:, None], value, 0.0)
    key_sum = tl.zeros([BLOCK_K, D], tl.float32)
    value_sum = tl.zeros([BLOCK_K, D], tl.float32)
    for start in range(split * share, tl.minimum(queries, (split + 1) * share), BLOCK_Q):
        at = start + tl.arange(0, BLOCK_Q)
        real = (at < queries)[:, None]
        query = tl.load(
            q + image * q_image + head * q_head + at[:, None] * q_stride + columns[None, :], mask=real, other=0.0
        )
        written = image * queries * heads * D + head * D + at[:, None] * (heads * D) + columns[None, :]
        upstream = tl.load(upstreams + written, mask=real, other=0.0)
        row_lse = tl.load(lse + pair * queries + at, mask=at < queries, other=float("inf"))  # weights become 0
        row_delta = tl.load(delta + pair * queries + at, mask=at < queries, other=0.0)
        logits = tl.dot(key, tl.trans(query), input_precision=PRECISION) * scale
        if BIASED:
            logits = tl.where(counts[:, None], logits + logit_bias[:, None], float("-inf"))
        weight = tl.exp2(logits - row_lse[None, :])
        value_sum = tl.dot(weight.to(upstream.dtype), upstream, value_sum, input_precision=PRECISION)
        slope = weight * (tl.dot(value, tl.trans(upstream), input_precision=PRECISION) - row_delta[None, :])
        key_sum = tl.dot(slope.to(query.dtype), query, key_sum, input_precision=PRECISION)
    target = (split * pairs + pair) * tokens * D + rows[:, None] * D + columns[None, :]
    tl.store(key_gradient + target, key_sum * factor, mask=inside[:, None])
    tl.store(value_gradient + target, value_sum, mask=inside[:, None])
