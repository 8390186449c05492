"""Random attention inputs, comparisons, and modes that watch or round every operator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pst.functional import pyramid_sparse_attention

Size = tuple[int, int]


@dataclass
class Attention:
    """Arguments of `pyramid_sparse_attention`, ready to vary one at a time."""

    query: Tensor
    key: Tensor
    value: Tensor
    fine_key: Tensor
    fine_value: Tensor
    weight: Tensor
    bias: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def random(
        cls,
        fine: Size = (6, 8),
        coarse: Size = (3, 4),
        *,
        batch: int = 2,
        heads: int = 2,
        width: int = 4,
        dtype: torch.dtype = torch.float64,
        magnitude: float = 1.0,
        **options: Any,
    ) -> Attention:
        """Standard-normal maps times ``magnitude``, drawn in float64 from the global generator."""
        query, fine_key, fine_value = (torch.randn(batch, heads, *fine, width, dtype=torch.float64) for _ in range(3))
        key, value = (torch.randn(batch, heads, *coarse, width, dtype=torch.float64) for _ in range(2))
        maps = [(t * magnitude).to(dtype) for t in (query, key, value, fine_key, fine_value)]
        gate = torch.randn(width, 2 * width, dtype=torch.float64), torch.randn(width, dtype=torch.float64)
        return cls(*maps, *(t.to(dtype) for t in gate), options=options)

    def __call__(self, **options: Any) -> Tensor:
        """Run the op."""
        given: dict[str, Any] = {"gate": (self.weight, self.bias)} | self.options | options
        return pyramid_sparse_attention(self.query, self.key, self.value, (self.fine_key, self.fine_value), **given)

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor argument."""
        return self.query, self.key, self.value, self.fine_key, self.fine_value, self.weight, self.bias

    def map(self, function) -> Attention:
        """A copy with ``function`` applied to every tensor."""
        return Attention(*(function(t) for t in self.tensors()), options=self.options)

    def to(self, dtype: torch.dtype) -> Attention:
        """A copy in another dtype."""
        return self.map(lambda t: t.to(dtype))

    def with_(self, **changes: Tensor) -> Attention:
        """A copy with some tensors replaced."""
        return replace(self, **changes)

    def run_with_gradients(self, **options: Any) -> list[Tensor]:
        """Output, then gradients of its product with a fixed cotangent by every tensor (zeros where unused)."""
        leaves = self.map(lambda t: t.detach().clone().requires_grad_())
        out = leaves(**options)
        cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out).cos()
        gradients = torch.autograd.grad(out, leaves.tensors(), cotangent, allow_unused=True, materialize_grads=True)
        return [out.detach(), *gradients]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude, in float64; 0 for two empty or equal tensors."""
    actual, expected = actual.double(), expected.double()
    assert actual.shape == expected.shape
    if torch.equal(actual, expected):
        return 0.0
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Assert `relative_error` within ``tolerance``; the default leaves float64 sums a few thousand roundings."""
    error = relative_error(actual, expected)
    assert error <= tolerance, f"relative error {error:.1e} > {tolerance:.1e}"


class Watch(TorchDispatchMode):
    """Counts the elements that are computed, backward included: all of them, and those of the largest tensor.

    A view of a tensor that is there already counts for nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = {} if kwargs is None else kwargs
        out = func(*args, **kwargs)
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in known:
                elements = t.untyped_storage().nbytes() // t.element_size()
                self.written += elements
                self.largest = max(self.largest, elements)
        return out


class RoundTo(TorchDispatchMode):
    """Rounds the result of every operator to ``dtype``, and computes it in the dtype of its arguments.

    Run in float64, it makes the errors that storing each intermediate in ``dtype`` costs, and no others.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        def rounded(t):
            is_float = isinstance(t, Tensor) and t.is_floating_point()
            return t.to(self.dtype).to(t.dtype) if is_float else t

        out = func(*args, **({} if kwargs is None else kwargs))
        is_view = any(r.alias_info is not None for r in func._schema.returns)
        return out if is_view else tree_map(rounded, out)
