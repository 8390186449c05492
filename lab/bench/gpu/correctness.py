"""Section of the GPU benchmark that judges results, against float64; and what the other sections share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from pst.functional import pyramid_sparse_attention
from pst.functional._dispatch import implementation_for

Save = Callable[[dict[str, Any] | None], None]

# Largest difference from float64, as a share of the largest number in the result: roundings of the softmax's weights,
# of the branches and of the result, each half a unit in the last place, with a factor of about 10 to spare.
BUDGET = {torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
SIZES = (((16, 16), (8, 8)), ((15, 22), (7, 11)), ((40, 40), (20, 20)), ((80, 80), (40, 40)))  # fine, coarse


def correctness(device: str, quick: bool, save: Save) -> None:
    """The op, forward and backward, every implementation, dtype, fusion, k and size: against float64 on the CPU."""
    impls = ["auto", "fused", *(["triton"] if find_spec("pst.functional._triton") and device != "cpu" else [])]
    for (fine, coarse), dtype, fusion, k, impl in itertools.product(
        SIZES[1:2] if quick else SIZES, BUDGET, ("gate", "refine"), (0, 8, 10**6), impls
    ):
        if k == 10**6 and fine[0] > 40:  # all tokens: the reference in float64 would take seconds
            continue
        record = {
            "fine": fine, "coarse": coarse, "dtype": str(dtype), "fusion": fusion, "topk": k, "impl": impl,
        }  # fmt: skip
        save(record | attempt(partial(_op_errors, device, fine, coarse, dtype, fusion, k, impl)))


def _op_errors(device: str, fine: Any, coarse: Any, dtype: torch.dtype, fusion: Any, k: int, impl: str) -> Any:
    want = _reference(fine, coarse, dtype, fusion, k)
    got = _run_op([t.to(device) for t in _op_inputs(fine, coarse, dtype)], fusion, k, impl)
    errors = {
        name: relative(a, b) for name, a, b in zip(("out", "query", "key", "value"), got[:4], want[:4], strict=True)
    }
    record: dict[str, Any] = {"errors": errors, "ok": max(errors.values()) <= BUDGET[dtype]}
    if impl == "auto":
        query = next(_op_inputs(fine, coarse, dtype)).to(device)
        record["chosen"] = implementation_for(query, coarse[0] * coarse[1], topk=k, fusion=fusion)._asdict()
    return record


@lru_cache(maxsize=1)  # the implementations follow one another
def _reference(fine: Any, coarse: Any, dtype: torch.dtype, fusion: Any, k: int) -> list[Tensor]:
    """What is right for inputs of ``dtype``: float64, on the CPU."""
    return _run_op([t.double() for t in _op_inputs(fine, coarse, dtype)], fusion, k, "reference")


def _op_inputs(fine: tuple[int, int], coarse: tuple[int, int], dtype: torch.dtype) -> Iterator[Tensor]:
    """Query, key, value, fine key, fine value, gate's weight and bias: numbers that ``dtype`` holds exactly."""
    generator = torch.Generator().manual_seed(0)
    for size in (fine, coarse, coarse, fine, fine):
        yield torch.randn(2, *size, 2, 32, generator=generator).to(dtype).permute(0, 3, 1, 2, 4)
    yield (0.1 * torch.randn(32, 64, generator=generator)).to(dtype)
    yield torch.zeros(32, dtype=dtype)


def _run_op(leaves: list[Tensor], fusion: Any, k: int, impl: str) -> list[Tensor]:
    """Result, then gradients of query, key and value for a loss that weights every number of the result."""
    leaves = [t.detach().requires_grad_() for t in leaves]
    query, key, value, fine_key, fine_value, weight, bias = leaves
    chosen: Any = {} if impl == "auto" else {"impl": impl}
    out = pyramid_sparse_attention(
        query, key, value, (fine_key, fine_value), topk=k, fusion=fusion, gate=(weight, bias), **chosen
    )
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    return [out, *torch.autograd.grad(out, (query, key, value), cotangent)]


def relative(got: Tensor, want: Tensor) -> float:
    """Largest difference over the largest number; infinite where ``got`` is not finite."""
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    error = float((got - want).abs().max() / want.abs().max().clamp(min=1e-12))
    return error if bool(got.isfinite().all()) else float("inf")


def attempt(run: Callable[[], dict[str, Any]], *, fails: bool = True) -> dict[str, Any]:
    """What ``run`` returns, or its error as a record; not ok if an error here is a failure (``fails``)."""
    try:
        return run()
    except Exception as error:  # recorded: that one case cannot run is the result
        if isinstance(error, torch.AcceleratorError if hasattr(torch, "AcceleratorError") else ()):
            raise  # the device is lost: the rest of this section would only repeat it
        return {"error_text": f"{type(error).__name__}: {str(error)[:500]}", **({"ok": False} if fails else {})}
