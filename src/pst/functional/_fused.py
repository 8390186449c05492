"""The fast path: `scaled_dot_product_attention` and gathers, no N×M tensor in forward or backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pst.functional._attend import softmax_attention
from pst.functional._blocks import applies, attend_blocks
from pst.functional._bounded import open_pooled
from pst.functional._rule import Selected
from pst.functional._types import FineTokens, Gate, Inputs, LinearGate, check_gated
from pst.functional.checks import is_eager
from pst.functional.grid import child_index, child_slots, join_blocks, pool_tokens, split_blocks
from pst.functional.selection import selected_by


def fused(
    inputs: Inputs, fine: FineTokens | None, gate: Gate | None, kernel: Callable[..., Tensor] | None = None
) -> Tensor:
    """See `pst.functional.pyramid_sparse_attention`, which checks everything this relies on.

    ``kernel`` takes the place of `softmax_attention`, and does both softmaxes and a `LinearGate`, or their joint
    softmax, in one pass: `pst.functional._triton.attend`.
    """
    query, key, value, scale = inputs.query, *_coarse(inputs), inputs.scale
    attention = softmax_attention if kernel is None else kernel
    if fine is None:
        return attention(query, key, value, scale=scale)

    with torch.no_grad():
        selected = selected_by(inputs.rule, inputs.tokens())
    if inputs.observer is not None:
        inputs.observer(selected.marked())
    whole = selected.indices.shape[-1] >= inputs.key.shape[2]
    if selected.grid is not None and selected.valid is None and whole and is_eager():
        selected = Selected(selected.indices[:, :, 0])  # all tokens: blocks of queries share them
    if kernel is None and applies(inputs, fine, selected):
        out = attend_blocks(inputs, fine, selected)
        if inputs.fusion == "refine":
            return out
        assert gate is not None  # checked by the caller
        return gate_fusion(attention(query, key, value, scale=scale), out, gate)
    children = _gather_children(inputs, fine, selected)
    own = query if selected.grid is None else split_blocks(query, inputs.query_size, selected.grid)
    gate = gate if inputs.fusion == "gate" else None
    linear = gate if isinstance(gate, LinearGate) else None  # the one gate that the kernel applies on its way
    mixed = gate if kernel is None or linear is None else None
    if mixed is not None:
        out = _attended(attention, own, children, scale)
    elif inputs.pooled_size is not None and linear is None:
        out = _opened(attention, kernel is not None, own, key, value, inputs, children)
    elif kernel is not None:
        out = _in_one_pass(kernel, own, key, value, children, linear, scale)
    else:
        out = _refined(own, key, value, children, scale)
    if selected.grid is not None:
        out = join_blocks(out, inputs.query_size, selected.grid)
    return out if mixed is None else gate_fusion(attention(query, key, value, scale=scale), out, mixed)


class _Children(NamedTuple):
    """The fine tokens of each image and head; G blocks of queries with their own stand side by side, as heads do.

    Attributes:
        key: (B, h·G, T, d), T = k·slots; that of the first slot where not ``valid``, so that NaN and infinity there go
            nowhere, and an infinite query makes none.
        value: (B, h·G, T, d); 0 where not ``valid``.
        parent: (B, h·G, k) flat coarse indices.
        used: (B, h·G, k) bool, which parents give way to their children; None when all do.
        valid: (B, h·G, T) bool, which slots are children of such; None when all are.
        slots: Slots of each parent.
    """

    key: Tensor
    value: Tensor
    parent: Tensor
    used: Tensor | None
    valid: Tensor | None
    slots: int


def _gather_children(inputs: Inputs, fine: FineTokens, selected: Selected) -> _Children:
    parent, used = selected.indices, selected.valid
    index, valid = child_index(parent, inputs.fine_size, inputs.coarse_size)
    slots = child_slots(inputs.fine_size, inputs.coarse_size)
    if used is not None:
        spread = used[..., None].expand(*[-1] * used.ndim, slots).flatten(-2)
        valid = spread if valid is None else valid & spread
    key, value = fine(index.flatten(2))
    if selected.grid is not None:
        key, value = (t.reshape(*index.shape, t.shape[-1]).flatten(1, 2) for t in (key, value))
        parent = parent.flatten(1, 2)
        used, valid = (None if t is None else t.flatten(1, 2) for t in (used, valid))
    if valid is not None:
        key, value = torch.where(valid[..., None], key, key[:, :, :1]), value.masked_fill(~valid[..., None], 0)
    return _Children(key, value, parent, used, valid, slots)


def _attended(attention: Callable[..., Tensor], query: Tensor, children: _Children, scale: float) -> Tensor:
    """Softmax over the children alone (docs/method.md, step 4)."""
    bias = None if children.valid is None else _exclusion_bias(children.valid, query.dtype)
    return attention(query, children.key.to(query.dtype), children.value.to(query.dtype), bias=bias, scale=scale)


def _refined(query: Tensor, key: Tensor, value: Tensor, children: _Children, scale: float) -> Tensor:
    """One softmax over the tokens not chosen and the children of the chosen (docs/method.md, "Refine")."""
    bias, key, value = _without_parents(query, key, value, children)
    return softmax_attention(
        query,
        torch.cat([key, children.key.to(key.dtype)], 2),
        torch.cat([value, children.value.to(value.dtype)], 2),
        bias,
        scale=scale,
    )


def _without_parents(query: Tensor, key: Tensor, value: Tensor, children: _Children) -> tuple[Tensor, Tensor, Tensor]:
    """`refinement_bias`, and coarse keys and values for each block of queries, 0 at the parents that give way.

    A logit bias of −∞ alone would let a NaN or an infinity through that the parent holds. Its value is set to 0, and
    its key to that of the first child: a 0 there would make NaN of an infinite query.
    """
    key, value = _for_each_block(query, key, value)
    bias = refinement_bias(children, key.shape[2], query.dtype)
    gone = bias[..., : key.shape[2], None] < 0
    return bias, torch.where(gone, children.key[:, :, :1].to(key.dtype), key), value.masked_fill(gone, 0)


def _opened(
    attention: Callable[..., Tensor], whole: bool, query: Tensor, key: Tensor, value: Tensor, inputs: Inputs,
    children: _Children,
) -> Tensor:  # fmt: skip
    """`_refined` for pooled coarse keys and values: those that hold selected tokens are opened.

    ``attention`` is a kernel that is given the pooled tokens and the others apart if ``whole`` is true.
    """
    assert inputs.pooled_size is not None
    dtype = torch.float32 if whole else query.dtype
    opened = open_pooled(children.parent, children.used, inputs.coarse_size, inputs.pooled_size, dtype)
    key, value = _for_each_block(query, key, value)
    first = children.key[:, :, :1].to(key.dtype)  # in the place of keys without weight: NaN and infinity go nowhere
    key, value = torch.where(opened.gone[..., None], first, key), value.masked_fill(opened.gone[..., None], 0)
    siblings = _siblings(query, inputs, opened.inside)
    none = opened.bias[..., None] == float("-inf")
    siblings = torch.where(none, first, siblings[0]), siblings[1].masked_fill(none, 0)
    below = _children_bias(children, dtype)
    below = below + opened.children[..., None].expand(*opened.children.shape, children.slots).flatten(-2)
    bias = torch.cat([torch.zeros_like(opened.gone, dtype=dtype).masked_fill(opened.gone, float("-inf")),
                      opened.bias, below], -1)  # fmt: skip
    fine_key = torch.cat([siblings[0], children.key.to(key.dtype)], 2)
    fine_value = torch.cat([siblings[1], children.value.to(value.dtype)], 2)
    if whole:
        return attention(query, key, value, fine_key, fine_value, scale=inputs.scale, bias=bias, gate=None)
    return attention(query, torch.cat([key, fine_key], 2), torch.cat([value, fine_value], 2), bias, scale=inputs.scale)


def _siblings(query: Tensor, inputs: Inputs, index: Tensor) -> tuple[Tensor, Tensor]:
    """Coarse keys and values at (B, h·G, S) indices."""
    heads = inputs.key.shape[1]
    flat = index.unflatten(1, (heads, -1)).flatten(2)
    picked = [t.gather(2, flat[..., None].expand(-1, -1, -1, t.shape[-1])) for t in (inputs.key, inputs.value)]
    key, value = (t.unflatten(2, (-1, index.shape[-1])).flatten(1, 2).to(query.dtype) for t in picked)
    return key, value


def _coarse(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Coarse keys and values, averaged where there are more than are wanted."""
    if inputs.pooled_size is None:
        return inputs.key, inputs.value
    key, value = (pool_tokens(t, inputs.coarse_size, inputs.pooled_size) for t in (inputs.key, inputs.value))
    return key, value


def _in_one_pass(
    kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, children: _Children,
    gate: LinearGate | None, scale: float,
) -> Tensor:  # fmt: skip
    """The whole attention of a kernel that knows the gate and logit biases, and takes nothing from where one is −∞.

    Blocks of queries become the heads of an image, so that all of them read the same coarse keys and values.
    """
    if gate is None:
        bias = refinement_bias(children, key.shape[2], torch.float32)
    else:
        bias = None if children.valid is None else _exclusion_bias(children.valid, torch.float32)
        gate = LinearGate(*(t.to(query.dtype) for t in gate))
    fine_key, fine_value = children.key.to(query.dtype), children.value.to(query.dtype)
    shape, blocks = query.shape, query.shape[1] // key.shape[1]
    if blocks > 1:
        key, value = (t.flatten(0, 1).contiguous()[:, None].expand(-1, blocks, -1, -1) for t in (key, value))
        query, fine_key, fine_value = (t.reshape(-1, blocks, *t.shape[2:]) for t in (query, fine_key, fine_value))
        bias = None if bias is None else bias.reshape(-1, blocks, bias.shape[-1])
    out = kernel(query, key, value, fine_key, fine_value, scale=scale, bias=bias, gate=gate)
    return out if blocks == 1 else out.reshape(shape)


def _for_each_block(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Coarse keys and values for each block of queries that stands where a head does."""
    blocks = query.shape[1] // key.shape[1]
    if blocks == 1:
        return key, value
    spread = (t[:, :, None].expand(-1, -1, blocks, -1, -1).flatten(1, 2) for t in (key, value))  # as ONNX can repeat
    key, value = spread
    return key, value


def gate_fusion(coarse: Tensor, fine: Tensor, gate: Gate) -> Tensor:
    """o = g·o_f + (1 − g)·o_c with g = σ(W [o_c ; o_f] + b) (docs/method.md, step 5).

    Works in the (B, N, h, d) memory order that attention kernels write, and never subtracts the two branches in
    float16, so that no intermediate of it exceeds the larger of them.

    Args:
        coarse: (B, h, N, d).
        fine: (B, h, N, d).
        gate: Called with (B, N, h, 2d).
    """
    coarse, fine = coarse.transpose(1, 2), fine.transpose(1, 2)
    g = check_gated(gate(torch.cat([coarse, fine], -1)), coarse).sigmoid()
    return (g * fine + (1 - g) * coarse).transpose(1, 2)


def refinement_bias(children: _Children, tokens: int, dtype: torch.dtype) -> Tensor:
    """Logit bias that replaces each selected coarse token by its children (docs/method.md, "Refine").

    Args:
        children: The fine tokens.
        tokens: M.
        dtype: Of the result; that of the query.

    Returns:
        (B, h·G, M + T): −∞ at parents that give way and at spare slots, −log n_j at the children of j, else 0.
    """
    parent, used = children.parent, children.used
    coarse = torch.zeros((*parent.shape[:2], tokens), device=parent.device, dtype=dtype)
    if used is None:
        coarse = coarse.scatter(2, parent, float("-inf"))
    else:
        coarse = coarse.scatter(2, parent, _exclusion_bias(~used, dtype))
    return torch.cat([coarse, _children_bias(children, dtype)], -1)


def _children_bias(children: _Children, dtype: torch.dtype) -> Tensor:
    """(B, h·G, T): −log n_j at the children of j, −∞ at spare slots."""
    used, valid = children.used, children.valid
    valid = torch.ones_like(children.key[..., 0], dtype=torch.bool) if valid is None else valid
    # -1, not k: an exported program may meet a coarse map of fewer than k tokens
    wide = torch.promote_types(dtype, torch.float32)
    count = valid.unflatten(-1, (-1, children.slots)).sum(-1, keepdim=True).to(wide)
    if used is not None:
        count = count.clamp_min(1)  # the log of none would be -∞ twice over
    fine = -count.log().to(dtype)
    fine = fine.expand(-1, -1, -1, children.slots).flatten(-2)
    return fine + _exclusion_bias(valid, dtype)


def _exclusion_bias(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where ``valid``, else −∞. A bool mask would do, but attention expands one to (B, h, N, T) in memory."""
    return torch.zeros_like(valid, dtype=dtype).masked_fill(~valid, float("-inf"))
