"""The public op: checks its arguments, then runs one of two implementations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pst.functional._dispatch import implementation_for, refusal_of_triton
from pst.functional._fused import fused
from pst.functional._reference import reference
from pst.functional._types import FineTokens, Gate, Inputs, LinearGate
from pst.functional.checks import (
    autocasts,
    check_fine,
    check_implementation,
    check_kind,
    check_maps,
    check_max_tokens,
    check_options,
    check_pair_of_tensors,
    check_scale,
    check_size,
    check_sizes,
    check_topk,
    is_eager,
)
from pst.functional.grid import Size, bounded_size
from pst.functional.selection import SelectionRule, check_selection

Fusion = Literal["gate", "refine"]
MANY = 128  # tokens of a head from which a CPU copies whole rows faster than it gathers, up to seven times
Implementation = Literal["auto", "fused", "triton", "reference"]


def pyramid_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    fine: tuple[Tensor, Tensor] | FineTokens | None = None,
    *,
    fine_size: Size | None = None,
    topk: int = 0,
    fusion: Fusion = "gate",
    gate: tuple[Tensor, Tensor] | Gate | None = None,
    selection: str | SelectionRule = "mean",
    scale: float | None = None,
    max_tokens: int | None = None,
    generator: torch.Generator | None = None,
    observer: Callable[[Tensor], None] | None = None,
    impl: Implementation = "auto",
) -> Tensor:
    """Coarse-to-fine attention between two pyramid levels (arXiv 2505.12772, section 3; docs/method.md, steps 2-5).

    Every query attends to all coarse tokens; with ``topk`` > 0 also to the finer children of the ``topk`` coarse
    tokens that score highest for its image and head. Position (y, x) of the fine map is a child of the coarse
    token (⌊y·Hu/Hf⌋, ⌊x·Wu/Wf⌋), so any ratio ≥ 1 and odd sizes work. In a pyramid the fine map is that of the
    queries; coarse and fine map may as well be of another frame or photo, and of a size of their own.

    NaN and infinities spread as in PyTorch's softmax over the tokens that take part: children of tokens that were not
    selected take none, nor in "refine" the selected tokens. A token whose score is not finite is selected first.

    Letters: B batch, h heads, d head width, e width of the values (d in a layer), (H, W) size of the query map,
    (Hf, Wf) of the fine and (Hu, Wu) of the coarse one, M = Hu·Wu.

    Args:
        query: (B, h, H, W, d). Float dtype; every tensor has this dtype and device.
        key: (B, h, Hu, Wu, d).
        value: (B, h, Hu, Wu, e).
        fine: Keys (B, h, Hf, Wf, d) and values (B, h, Hf, Wf, e) of the fine map, or a function that returns them for
            flat fine indices: (B, h, T) int64 -> (B, h, T, d) and (B, h, T, e). Needed when ``topk`` > 0, else unused.
        fine_size: (Hf, Wf) of the map that a function reads; None means the query's. Two maps say it themselves.
        topk: k, the number of coarse tokens to refine; more than M means M; 0 is coarse attention alone.
        fusion: "gate" mixes the coarse and the fine result with a learned gate (the paper); "refine" replaces the
            selected tokens by their children inside one softmax and has no parameters.
        gate: Weight (e, 2e) and bias (e) of the gate, or a function such as a Linear that is called with the coarse
            and the fine result side by side, (..., 2e) -> (..., e); needed by "gate" when ``topk`` > 0.
        selection: "mean" takes the largest mean logit over all queries (the paper, without noise); or another name or
            object of `pst.functional.selection`: "gumbel", "mass", "nearest", "nucleus", "query", "random", "window".
            Ties go to the lower index.
        scale: Factor on the logits; None means 1/√d.
        max_tokens: Most coarse tokens that queries attend to: more are averaged, keys and values, over a grid of about
            √max_tokens rows and columns. Selection looks at all of them; in "refine" an averaged token that holds
            selected ones is opened, into those and the others inside it. None means no bound.
        generator: Source of random numbers for "gumbel"; None means PyTorch's global one.
        observer: Called with the (B, h, min(k, M)) int64 indices of the selected tokens; −1 in slots that "nucleus"
            leaves unused; (B, h, G, min(k, M)) where each of G blocks of queries has its own.
        impl: "fused" is PyTorch's attention and gathers, "triton" one kernel on a GPU (one for each softmax where the
            gate is a function), both in O(N·d) memory; "auto" takes the faster one, see `implementation_for`;
            "reference" is the readable O(N·M) definition, for tests.

    Returns:
        (B, h, H, W, e), dtype of ``query``.

    Raises:
        TypeError: A dtype is not floating or differs; ``topk`` is not an integer; ``selection`` is not a rule.
        ValueError: Shapes, devices or sizes do not fit, ``topk`` < 0, an option is unknown, an argument that
            ``topk`` > 0 needs is missing, or ``impl="triton"`` cannot run here.
    """
    check_maps(query, key, value)
    topk = check_topk(topk)
    max_tokens = check_max_tokens(max_tokens)
    check_options(fusion, impl, fine, gate, topk, generator, observer)
    query_size = (query.shape[2], query.shape[3])
    if fine is None or callable(fine):
        fine_size = query_size if fine_size is None else check_size("fine_size", fine_size)
    else:
        fine = check_fine(fine, query, value)
        fine_size = (fine[0].shape[2], fine[0].shape[3])
    check_sizes(fine_size, (key.shape[2], key.shape[3]))
    tokens, weights = None, None
    if topk > 0 and fine is not None:
        tokens = _checked(fine, query, value) if callable(fine) else gather_tokens(*(t.flatten(2, 3) for t in fine))
        weights = gate if gate is None or callable(gate) else _check_gate(gate, value)
    out = attend(
        query.flatten(2, 3),
        key.flatten(2, 3),
        value.flatten(2, 3),
        tokens,
        weights,
        query_size=query_size,
        fine_size=fine_size,
        coarse_size=(key.shape[2], key.shape[3]),
        topk=topk,
        fusion=fusion,
        selection=selection,
        scale=check_scale(scale, query.shape[-1]),
        max_tokens=max_tokens,
        generator=generator,
        observer=observer,
        impl=impl,
    )
    # Tensor.unflatten would make a size that TorchScript traces a constant; autocast has products of another dtype
    return out.reshape(*query.shape[:4], value.shape[4]).to(query.dtype)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    fine: FineTokens | None,
    gate: Gate | None,
    *,
    query_size: Size,
    fine_size: Size,
    coarse_size: Size,
    topk: int,
    fusion: Fusion,
    selection: str | SelectionRule,
    scale: float,
    max_tokens: int | None,
    generator: torch.Generator | None,
    observer: Callable[[Tensor], None] | None,
    impl: str,
) -> Tensor:
    """The entrance behind `pyramid_sparse_attention`, for tokens that were checked, or made by a layer.

    ``query`` is (B, h, N, d) with N = H·W of ``query_size``, ``key`` (B, h, M, d) and ``value`` (B, h, M, e) with
    M = Hu·Wu of ``coarse_size``; (B, h, N, e) comes back. The rest is as there, ``fine`` always a function of positions
    or None.
    """
    if fine is not None and gate is None and fusion == "gate":
        raise ValueError('fusion="gate" with topk > 0 needs a gate, and there is None: put one back, or use "refine"')
    rule = check_selection(selection)
    inputs = Inputs(
        query, key, value, topk, fusion, rule, scale, generator, observer, query_size, fine_size, coarse_size,
        bounded_size(coarse_size, max_tokens),
    )  # fmt: skip
    return _implementation(impl, inputs, gate)(inputs, fine, gate)


def _implementation(impl: str, inputs: Inputs, gate: Gate | None) -> Callable[..., Tensor]:
    """The function that ``impl`` stands for."""
    check_implementation(impl)
    if impl == "auto":
        rows, columns = inputs.coarse_size if inputs.pooled_size is None else inputs.pooled_size
        tokens = rows * columns
        # a gate that is called stands outside of the kernel, which then does nothing but softmaxes
        topk = inputs.topk if inputs.fusion == "refine" or isinstance(gate, LinearGate) else 0
        uniform = inputs.value.shape[-1] == inputs.query.shape[-1]
        impl = implementation_for(inputs.query, tokens, topk=topk, fusion=inputs.fusion).impl if uniform else "fused"
    if impl != "triton":
        return reference if impl == "reference" else fused
    refusal = refusal_of_triton(inputs.query, inputs.value)
    if refusal is not None:
        raise ValueError(f'impl="triton" cannot run: {refusal}. impl="auto" takes what can')
    from pst.functional._triton import attend

    return partial(fused, kernel=attend)


def _checked(fine: FineTokens, query: Tensor, value: Tensor) -> FineTokens:
    """``fine``, which raises TypeError or ValueError once it gives anything but two tensors (B, h, T, d)."""

    def tokens(index: Tensor) -> tuple[Tensor, Tensor]:
        pair = check_pair_of_tensors("what fine gives", fine(index), "(key, value), two tensors")
        for name, t, like in zip(("keys", "values"), pair, (query, value), strict=True):
            shape = (*index.shape, like.shape[-1])
            if t.shape != shape:
                raise ValueError(f"fine must give {name} of shape {shape} for these positions, got {tuple(t.shape)}")
            if not autocasts(query):
                check_kind(f"what fine gives as {name}", t, query)
        return pair

    return tokens


def _check_gate(gate: object, value: Tensor) -> LinearGate:
    """The gate's weight and bias; raise TypeError or ValueError unless they fit ``value``."""
    weight, bias = check_pair_of_tensors("gate", gate, "(weight, bias), two tensors, or a function of both branches")
    d = value.shape[-1]
    if weight.shape != (d, 2 * d) or bias.shape != (d,):
        raise ValueError(
            f"gate must be weight ({d}, {2 * d}) and bias ({d},) for head width {d}, "
            f"got {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if not autocasts(value):
        check_kind("gate weight", weight, value)
        check_kind("gate bias", bias, value)
    return LinearGate(weight, bias)


def gather_tokens(key: Tensor, value: Tensor) -> FineTokens:
    """Function that picks given positions out of fine keys (B, h, N, d) and values (B, h, N, e)."""

    def gather(index: Tensor) -> tuple[Tensor, Tensor]:
        recorded = torch.is_grad_enabled() and (key.requires_grad or value.requires_grad)
        if is_eager() and not recorded and len(key) and index.shape[2] >= MANY and key.device.type == "cpu":
            return _rows(key, index), _rows(value, index)
        index = index[..., None]
        picked = (t.gather(2, index.expand(-1, -1, -1, t.shape[-1])) for t in (key, value))
        return next(picked), next(picked)

    return gather


def _rows(t: Tensor, index: Tensor) -> Tensor:
    """(B, h, N, d) and (B, h, T) -> (B, h, T, d), whole rows at a time."""
    picked = [t[b, h].index_select(0, index[b, h]) for b in range(t.shape[0]) for h in range(t.shape[1])]
    return torch.stack(picked).unflatten(0, t.shape[:2]) if len(picked) != 1 else picked[0][None, None]
