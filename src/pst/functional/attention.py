"""The public op: checks its arguments, then runs one of two implementations."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pst.functional._dispatch import implementation_for, refusal_of_triton
from pst.functional._fused import fused
from pst.functional._reference import reference
from pst.functional._types import FineTokens, Gate, Inputs, LinearGate
from pst.functional.selection import SelectionRule, check_selection

Fusion = Literal["gate", "refine"]
Implementation = Literal["auto", "fused", "triton", "reference"]
FUSIONS = ("gate", "refine")
IMPLEMENTATIONS = ("auto", "fused", "triton", "reference")


def pyramid_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    fine: tuple[Tensor, Tensor] | FineTokens | None = None,
    *,
    topk: int = 0,
    fusion: Fusion = "gate",
    gate: tuple[Tensor, Tensor] | Gate | None = None,
    selection: str | SelectionRule = "mean",
    scale: float | None = None,
    generator: torch.Generator | None = None,
    observer: Callable[[Tensor], None] | None = None,
    impl: Implementation = "auto",
) -> Tensor:
    """Coarse-to-fine attention between two pyramid levels (arXiv 2505.12772, section 3; spec steps 2-5).

    Every query attends to all coarse tokens; with ``topk`` > 0 also to the finer children of the ``topk`` coarse
    tokens that score highest for its image and head. Position (y, x) of the fine map is a child of the coarse
    token (⌊y·Hu/H⌋, ⌊x·Wu/W⌋), so any ratio ≥ 1 and odd sizes work.

    NaN and infinities spread as in PyTorch's softmax over the tokens that take part: children of tokens that were not
    selected take none, nor in "refine" the selected tokens. A token whose score is not finite is selected first.

    Letters: B batch, h heads, d head width, (H, W) fine size, (Hu, Wu) coarse size, M = Hu·Wu.

    Args:
        query: (B, h, H, W, d). Float dtype; every tensor has this dtype and device.
        key: (B, h, Hu, Wu, d).
        value: (B, h, Hu, Wu, d).
        fine: Keys and values of the fine map, (B, h, H, W, d) each, or a function that returns them for flat
            fine indices: (B, h, T) int64 -> two of (B, h, T, d). Needed when ``topk`` > 0, else unused.
        topk: k, the number of coarse tokens to refine; more than M means M; 0 is coarse attention alone.
        fusion: "gate" mixes the coarse and the fine result with a learned gate (the paper); "refine" replaces the
            selected tokens by their children inside one softmax and has no parameters.
        gate: Weight (d, 2d) and bias (d) of the gate, or a function such as a Linear that is called with the coarse
            and the fine result side by side, (..., 2d) -> (..., d); needed by "gate" when ``topk`` > 0.
        selection: "mean" takes the largest mean logit over all queries (the paper, without noise); or another name or
            object of `pst.functional.selection`: "gumbel", "mass", "nucleus", "random", "window". Ties go to the
            lower index.
        scale: Factor on the logits; None means 1/√d.
        generator: Source of random numbers for "gumbel"; None means PyTorch's global one.
        observer: Called with the (B, h, min(k, M)) int64 indices of the selected tokens; −1 in slots that "nucleus"
            leaves unused; (B, h, G, min(k, M)) where each of G blocks of queries has its own.
        impl: "fused" is PyTorch's attention and gathers, "triton" one kernel on a GPU (one for each softmax where the
            gate is a function), both in O(N·d) memory; "auto" takes the faster one, see `implementation_for`;
            "reference" is the readable O(N·M) definition, for tests.

    Returns:
        (B, h, H, W, d), dtype of ``query``.

    Raises:
        TypeError: A dtype is not floating or differs; ``topk`` is not an integer; ``selection`` is no rule.
        ValueError: Shapes, devices or sizes do not fit, ``topk`` < 0, an option is unknown, an argument that
            ``topk`` > 0 needs is missing, or ``impl="triton"`` cannot run here.
    """
    check_maps(query, key, value)
    topk = check_topk(topk)
    _check_options(fusion, impl, fine, gate, topk)
    size = (query.shape[2], query.shape[3])
    inputs = Inputs(
        query=query.flatten(2, 3),
        key=key.flatten(2, 3),
        value=value.flatten(2, 3),
        topk=topk,
        fusion=fusion,
        rule=check_selection(selection),
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        generator=generator,
        observer=observer,
        fine_size=size,
        coarse_size=(key.shape[2], key.shape[3]),
    )
    tokens, weights = None, None
    if topk > 0 and fine is not None:
        tokens = fine if callable(fine) else _tokens_of(*fine, query)
        weights = gate if gate is None or callable(gate) else _check_gate(gate, query)
    out = attend(inputs, tokens, weights, impl)
    return out.reshape(*query.shape)  # Tensor.unflatten would make a size that TorchScript traces a constant


def attend(inputs: Inputs, fine: FineTokens | None, gate: Gate | None, impl: str) -> Tensor:
    """`pyramid_sparse_attention` of arguments that need no check, for a module that made them itself."""
    return _implementation(impl, inputs, gate)(inputs, fine, gate)


def _implementation(impl: str, inputs: Inputs, gate: Gate | None) -> Callable[..., Tensor]:
    """The function that ``impl`` stands for."""
    check_implementation(impl)
    if impl == "auto":
        tokens = inputs.coarse_size[0] * inputs.coarse_size[1]
        # a gate that is called stands outside of the kernel, which then does nothing but softmaxes
        topk = inputs.topk if inputs.fusion == "refine" or isinstance(gate, LinearGate) else 0
        impl = implementation_for(inputs.query, tokens, topk=topk, fusion=inputs.fusion).impl
    if impl != "triton":
        return reference if impl == "reference" else fused
    refusal = refusal_of_triton(inputs.query)
    if refusal is not None:
        raise ValueError(f'impl="triton" cannot run: {refusal}. impl="auto" takes what can')
    from pst.functional._triton import attend

    return partial(fused, kernel=attend)


def _tokens_of(fine_key: Tensor, fine_value: Tensor, query: Tensor) -> FineTokens:
    """`gather_tokens` of maps (B, h, H, W, d), which must have the query's shape, dtype and device."""
    for name, t in (("fine key", fine_key), ("fine value", fine_value)):
        if t.shape != query.shape:
            raise ValueError(f"{name} must have the query's shape {tuple(query.shape)}, got {tuple(t.shape)}")
        _check_kind(name, t, query)
    return gather_tokens(fine_key.flatten(2, 3), fine_value.flatten(2, 3))


def gather_tokens(key: Tensor, value: Tensor) -> FineTokens:
    """Function that picks given positions out of fine keys and values of shape (B, h, N, d)."""

    def gather(index: Tensor) -> tuple[Tensor, Tensor]:
        index = index[..., None].expand(-1, -1, -1, key.shape[-1])
        return key.gather(2, index), value.gather(2, index)

    return gather


def check_topk(topk: int) -> int:
    """Return ``topk`` as an int; raise TypeError for a non-integer (bool included), ValueError for k < 0."""
    if isinstance(topk, bool):
        raise TypeError(f"topk must be an integer, got {topk!r}: use 0 to switch fine attention off, 8 for on")
    if isinstance(topk, torch.SymInt):  # a size under torch.compile or torch.export
        return topk
    try:
        topk = operator.index(topk)
    except TypeError:
        raise TypeError(f"topk must be an integer, got {topk!r} ({type(topk).__name__})") from None
    if topk < 0:
        raise ValueError(f"topk must be ≥ 0, got {topk}: use 0 for coarse attention alone")
    return topk


def check_fusion(fusion: str) -> None:
    """Raise ValueError unless ``fusion`` is one of `FUSIONS`."""
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {list(FUSIONS)}, got {fusion!r}")


def check_maps(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise TypeError or ValueError unless query, key and value fit `pyramid_sparse_attention`."""
    for name, t in (("query", query), ("key", key), ("value", value)):
        if t.ndim != 5:
            raise ValueError(f"{name} must be (batch, heads, height, width, head width), got shape {tuple(t.shape)}")
        if not t.is_floating_point() or t.dtype != query.dtype:
            raise TypeError(f"query, key and value must share one float dtype, got {query.dtype} and {t.dtype}")
        if t.device != query.device:
            raise ValueError(f"{name} is on {t.device} but the query on {query.device}: move them to one device")
    if key.shape != value.shape:
        raise ValueError(f"key and value must have one shape, got {tuple(key.shape)} and {tuple(value.shape)}")
    for axis, what in ((0, "batch size"), (1, "number of heads"), (4, "head width")):
        if query.shape[axis] != key.shape[axis]:
            raise ValueError(f"{what} differs: query has {query.shape[axis]}, key and value {key.shape[axis]}")
    check_sizes(query.shape[2:4], key.shape[2:4])


def check_sizes(fine: torch.Size, coarse: torch.Size) -> None:
    """Raise ValueError for an empty map, or a fine map (H, W) smaller than the coarse one (Hu, Wu)."""
    if any(size == 0 for size in (*fine, *coarse)):  # no min(): it would make torch.export guard on the order of sizes
        raise ValueError(f"maps must not be empty, got fine {tuple(fine)} and coarse {tuple(coarse)}")
    if fine[0] < coarse[0] or fine[1] < coarse[1]:
        raise ValueError(
            f"the fine map must be at least as large as the coarse one, got fine {tuple(fine)} and coarse "
            f"{tuple(coarse)}: is the order of the two maps swapped?"
        )


def check_implementation(impl: str) -> None:
    """Raise ValueError unless ``impl`` is one of `IMPLEMENTATIONS`."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {list(IMPLEMENTATIONS)}, got {impl!r}")


def _check_options(fusion: str, impl: str, fine: object, gate: object, topk: int) -> None:
    check_fusion(fusion)
    check_implementation(impl)
    if topk > 0 and fine is None:
        raise ValueError(f"topk={topk} needs the fine keys and values: pass fine=(key, value), or topk=0")
    if topk > 0 and fusion == "gate" and gate is None:
        raise ValueError(
            'fusion="gate" with topk > 0 needs gate=(weight, bias) or a gate to call; fusion="refine" needs none'
        )


def _check_gate(gate: tuple[Tensor, Tensor], query: Tensor) -> LinearGate:
    weight, bias = gate
    d = query.shape[-1]
    if weight.shape != (d, 2 * d) or bias.shape != (d,):
        raise ValueError(
            f"gate must be weight ({d}, {2 * d}) and bias ({d},) for head width {d}, "
            f"got {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if not autocasts(query):
        _check_kind("gate weight", weight, query)
        _check_kind("gate bias", bias, query)
    return LinearGate(weight, bias)


def autocasts(t: Tensor) -> bool:
    """Whether autocast is on for the device of ``t``, so that dtypes may differ; meta tensors have none."""
    return not t.is_meta and torch.is_autocast_enabled(t.device.type)


def _check_kind(name: str, t: Tensor, query: Tensor) -> None:
    """Raise TypeError or ValueError unless ``t`` has the dtype and device of ``query``."""
    if t.dtype != query.dtype:
        raise TypeError(f"{name} is {t.dtype} but the query {query.dtype}: give both one dtype")
    if t.device != query.device:
        raise ValueError(f"{name} is on {t.device} but the query on {query.device}: move them to one device")
