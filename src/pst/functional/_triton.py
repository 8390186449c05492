"""The CUDA path in Triton: coarse keys, then fine keys, then the gate, in one kernel; backward without N×M tensors.

`attend` checks nothing: `pst.functional.pyramid_sparse_attention` does. This file and `_triton_kernels.py` import
Triton, so they are imported only where it is installed and wanted.
"""

# ruff: noqa: ARG001 a fake implementation takes every argument of its operator
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from pst.functional._dispatch import HEAD_WIDTHS
from pst.functional._triton_kernels import forward_kernel, key_gradient_kernel, query_gradient_kernel
from pst.functional._types import LinearGate

LOG2_E = 1.4426950408889634
PROGRAMS = 256  # enough to fill a large GPU; a constant, so that results do not depend on the device's size


class Launch(NamedTuple):
    """Tile sizes (queries, keys) and what the compiler is told."""

    BLOCK_Q: int
    BLOCK_K: int
    num_warps: int
    num_stages: int


# (kernel, whether float32) -> one for each of `HEAD_WIDTHS`; those of d = 32 measured by lab/bench/gpu/kernel.py.
# At most 99 kB of shared memory: they fit every GPU since Ampere. No registers spill but with float32 at d = 128.
LAUNCHES: dict[tuple[str, bool], tuple[Launch, ...]] = {
    ("forward", False): (Launch(64, 64, 4, 3), Launch(64, 64, 4, 3), Launch(128, 64, 8, 3), Launch(64, 32, 4, 3)),
    ("forward", True): (Launch(64, 32, 4, 3), Launch(64, 32, 4, 3), Launch(64, 32, 8, 2), Launch(32, 32, 8, 1)),
    ("query_gradient", False): (Launch(64, 64, 4, 3), Launch(64, 64, 4, 3), Launch(64, 64, 4, 2), Launch(64, 32, 4, 2)),
    ("query_gradient", True): (Launch(64, 32, 4, 2), Launch(64, 32, 4, 2), Launch(64, 32, 4, 2), Launch(32, 32, 8, 1)),
    ("key_gradient", False): (Launch(128, 64, 4, 3), Launch(128, 64, 4, 3), Launch(64, 64, 4, 2), Launch(64, 32, 4, 2)),
    ("key_gradient", True): (Launch(32, 64, 4, 2), Launch(32, 64, 4, 2), Launch(32, 64, 8, 2), Launch(32, 32, 8, 1)),
}


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    fine_key: Tensor | None = None,
    fine_value: Tensor | None = None,
    *,
    scale: float,
    bias: Tensor | None = None,
    gate: LinearGate | None = None,
) -> Tensor:
    """Attention to coarse tokens and, with fine ones, the gated mixture of two softmaxes or one softmax over both.

    Differentiable once, ``bias`` excepted. Sums are taken in float32. float32 inputs are multiplied as three tf32
    products, which is close to float32, or as one where ``torch.backends.cuda.matmul.allow_tf32`` is set.

    Args:
        query: (B, h, N, d) of any strides, for which `refusal_of_triton` is None; all others but ``bias`` have this
            dtype. A tensor whose last dimension is not contiguous is copied.
        key: (B, h, M, d).
        value: (B, h, M, d).
        fine_key: (B, h, T, d) or None.
        fine_value: (B, h, T, d) or None.
        scale: Factor on the logits.
        bias: Added to the logits of fine tokens, (B, h, T), with ``gate``; to those of all, (B, h, M + T), without.
            A token takes no part where it is −∞, whatever is in it.
        gate: Mixes the two branches; None is one softmax over all tokens.

    Returns:
        (B, h, N, d), in (B, N, h, d) memory order.
    """
    weight, shift = (None, None) if gate is None else (t.contiguous() for t in gate)
    bias = None if bias is None else bias.contiguous()
    tensors = (query, key, value, fine_key, fine_value, weight, shift)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if torch.compiler.is_compiling():  # an operator costs 0.1 ms more than the function behind it, but can be traced
        return _operator(*tensors, bias, scale, save)[0].transpose(1, 2)
    return (_Attend.apply if save else _attend)(*tensors, bias, scale, save)[0].transpose(1, 2)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, fk: Tensor | None, fv: Tensor | None, weight: Tensor | None, shift: Tensor | None,
    bias: Tensor | None, scale: float, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Result (B, N, h, d); with ``save`` also both branches, (2, B, N, h, d), if gated, and log-sum-exps (·, B, h, N).

    What is not saved is empty.
    """
    out, branches, lse = _outputs(q, k, v, fk, fv, weight, shift, bias, scale, save)
    q, (k, v), (fk, fv) = _rows(q), _pair(k, v), _pair(fk, fv)
    queries, tokens, fine = q.shape[2], k.shape[2], 0 if fk is None else fk.shape[2]
    settings = _settings("forward", q, fine)
    programs = q.shape[0] * q.shape[1] * triton.cdiv(queries, settings["BLOCK_Q"])
    with torch.cuda.device_of(q):
        forward_kernel[(programs,)](
            *_or(q, k, v, fk, fv, weight, shift, bias), out, branches, lse, *_strides(q, k, fk),
            q.shape[1], queries, tokens, fine, _length(bias), scale * LOG2_E, out.numel(), _size(q),
            FINE=fk is not None, GATED=weight is not None, BIASED=bias is not None, SAVE=save, **settings,
        )  # fmt: skip
    return out, branches, lse


def _outputs(
    q: Tensor, k: Tensor, v: Tensor, fk: Tensor | None, fv: Tensor | None, weight: Tensor | None, shift: Tensor | None,
    bias: Tensor | None, scale: float, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `_attend` returns, not filled in."""
    b, h, n, d = q.shape
    gated = weight is not None
    branches = q.new_empty((2, b, n, h, d) if gated and save else (0,))
    lse = q.new_empty((1 + gated, b, h, n) if save else (0,), dtype=torch.float32)
    return q.new_empty((b, n, h, d)), branches, lse


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale, _ = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor, *_: None, traced: bool = False) -> tuple[Tensor | None, ...]:
    q, k, v, fk, fv, weight, shift, bias, out, branches, lse = ctx.saved_tensors
    if weight is None:
        results, upstreams, gate_gradients = out[None], upstream.contiguous()[None], (None, None)
    else:
        results = branches
        upstreams, *gate_gradients = _gate_gradients(upstream, branches, weight, shift)
    compute = _gradients_operator if traced else _gradients
    gradients = compute(q, k, v, fk, fv, bias, results, upstreams, lse, ctx.scale)
    fine = (None, None) if fk is None else gradients[3:]
    return *gradients[:3], *fine, *gate_gradients, None, None, None


class _Attend(torch.autograd.Function):
    """`_attend` with ``save``, differentiable once."""

    forward = staticmethod(_attend)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(once_differentiable(_backward))  # pyright: ignore[reportAssignmentType] by position


def _gate_gradients(upstream: Tensor, branches: Tensor, weight: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
    """Gradients of both branches (2, B, N, h, d), of the gate's weight and of its bias."""
    coarse, fine = branches
    both = torch.cat([coarse, fine], -1)
    g = F.linear(both, weight, shift).sigmoid()
    slope = upstream * (fine - coarse) * g * (1 - g)
    through = (slope @ weight).unflatten(-1, (2, -1)).movedim(-2, 0)
    upstreams = (torch.stack([(1 - g) * upstream, g * upstream]) + through).contiguous()
    flat = slope.flatten(0, -2)
    return upstreams, flat.T @ both.flatten(0, -2), flat.sum(0)


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, fk: Tensor | None, fv: Tensor | None, bias: Tensor | None,
    results: Tensor, upstreams: Tensor, lse: Tensor, scale: float,
) -> list[Tensor]:  # fmt: skip
    """Gradients of q, k, v and, where they are given, fk and fv."""
    gated = len(results) == 2
    q, (k, v), (fk, fv) = _rows(q), _pair(k, v), _pair(fk, fv)
    b, h, queries, d = q.shape
    fine = 0 if fk is None else fk.shape[2]
    settings = _settings("query_gradient", q, fine)
    delta, q_gradient = torch.empty_like(lse), q.new_empty((b, queries, h, d))
    with torch.cuda.device_of(q):
        query_gradient_kernel[(b * h * triton.cdiv(queries, settings["BLOCK_Q"]),)](
            *_or(q, k, v, fk, fv, bias), results, upstreams, lse, delta, q_gradient, *_strides(q, k, fk),
            h, queries, k.shape[2], fine, _length(bias), scale * LOG2_E, scale, q_gradient.numel(), _size(q),
            FINE=fk is not None, GATED=gated, BIASED=bias is not None, **settings,
        )  # fmt: skip
        joint = None if gated else bias
        gradients = _key_gradients(q, k, v, joint, upstreams[0], lse[0], delta[0], scale)
        if fk is not None and fv is not None:
            rest = bias if bias is None or gated else bias[..., k.shape[2] :].contiguous()
            gradients += _key_gradients(q, fk, fv, rest, upstreams[-1], lse[-1], delta[-1], scale)
    return [q_gradient.transpose(1, 2), *gradients]


def _gradients_outputs(
    q: Tensor, k: Tensor, v: Tensor, fk: Tensor | None, fv: Tensor | None, bias: Tensor | None,
    results: Tensor, upstreams: Tensor, lse: Tensor, scale: float,
) -> list[Tensor]:  # fmt: skip
    b, h, n, d = q.shape
    keys = [t.new_empty(t.shape) for t in (k, v, fk, fv) if t is not None]
    return [q.new_empty((b, n, h, d)).transpose(1, 2), *keys]


_KEYS = "Tensor q, Tensor k, Tensor v, Tensor? fk, Tensor? fv"
_operator = torch.library.custom_op(
    "pst::attend", _attend, mutates_args=(),
    schema=f"({_KEYS}, Tensor? weight, Tensor? shift, Tensor? bias, float scale, bool save)"
    " -> (Tensor, Tensor, Tensor)",
)  # fmt: skip
_operator.register_fake(_outputs)
_operator.register_autograd(partial(_backward, traced=True), setup_context=_setup_context)
_gradients_operator = torch.library.custom_op(
    "pst::attend_backward", _gradients, mutates_args=(),
    schema=f"({_KEYS}, Tensor? bias, Tensor results, Tensor upstreams, Tensor lse, float scale) -> Tensor[]",
)  # fmt: skip
_gradients_operator.register_fake(_gradients_outputs)


def _key_gradients(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, upstream: Tensor, lse: Tensor, delta: Tensor, scale: float
) -> list[Tensor]:  # fmt: skip
    """Gradients of one set of keys and values. Few keys: several programs share the queries, without atomics."""
    b, h, queries, d = q.shape
    tokens = k.shape[2]
    settings = _settings("key_gradient", q)
    programs = b * h * triton.cdiv(tokens, settings["BLOCK_K"])
    splits = max(1, min(triton.cdiv(PROGRAMS, programs), queries // 256))
    share = triton.cdiv(triton.cdiv(queries, splits), settings["BLOCK_Q"]) * settings["BLOCK_Q"]
    key_sums, value_sums = (q.new_empty((splits, b, h, tokens, d), dtype=torch.float32) for _ in range(2))
    key_gradient_kernel[(splits * programs,)](
        *_or(q, k, v, bias), upstream, lse, delta, key_sums, value_sums, *_strides(q, k),
        b * h, h, queries, tokens, _length(bias), scale * LOG2_E, scale, share, BIASED=bias is not None, **settings,
    )  # fmt: skip
    return [sums.sum(0).to(k.dtype) for sums in (key_sums, value_sums)]


def _settings(kernel: str, q: Tensor, fine: int | None = None) -> dict[str, Any]:
    """Compile-time constants and launch settings of one kernel; ``fine`` T where it reads fine tokens as well."""
    single = q.dtype == torch.float32
    launch = LAUNCHES[kernel, single][HEAD_WIDTHS.index(q.shape[-1])]
    settings = launch._asdict() | {"D": q.shape[-1], "PRECISION": "ieee"}
    settings["BLOCK_Q"] = min(launch.BLOCK_Q, max(16, triton.next_power_of_2(q.shape[2])))
    if fine is not None:
        settings["BLOCK_F"] = min(launch.BLOCK_K, max(16, triton.next_power_of_2(fine)))
    if single:
        settings["PRECISION"] = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
    return settings


def _rows(t: Any) -> Any:
    """``t`` with a contiguous last dimension; None stays None."""
    return t if t is None or t.stride(-1) == 1 else t.contiguous()


def _pair(k: Any, v: Any) -> tuple[Any, Any]:
    """Keys and values of the same strides; None stays None."""
    if k is None or (k.stride() == v.stride() and k.stride(-1) == 1):
        return k, v
    return k.contiguous(), v.contiguous()


def _or(q: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """``q`` stands in for pointers that the kernel does not follow."""
    return q, *(q if t is None else t for t in tensors)


def _strides(*tensors: Tensor | None) -> list[int]:
    return [stride for t in tensors for stride in ((0, 0, 0) if t is None else t.stride()[:3])]


def _length(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.shape[-1]


def _size(q: Tensor) -> int:
    """B·h·N."""
    return q.shape[0] * q.shape[1] * q.shape[2]
