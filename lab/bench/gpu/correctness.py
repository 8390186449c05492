"""Section of the GPU benchmark that judges results, against float64; and what the other sections share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pst.functional import pyramid_sparse_attention
from pst.functional._dispatch import implementation_for

Save = Callable[[dict[str, Any] | None], None]
Size = tuple[int, int]
WIDTH = 32  # of each head
FUSIONS = ("gate", "refine")

# Largest difference from float64, as a share of the largest number in the result: roundings of the softmax's weights,
# of the branches and of the result, each half a unit in the last place, with a factor of about 10 to spare.
BUDGET = {torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
SIZES = (((16, 16), (8, 8)), ((15, 22), (7, 11)), ((40, 40), (20, 20)), ((80, 80), (40, 40)))  # fine, coarse
SMALL = (((9, 14), (4, 7)),)


class OpCase(NamedTuple):
    """One call of the operator.

    Attributes:
        fine: Size of the fine map.
        coarse: Of the coarse one.
        fusion: "gate" or "refine".
        topk: k.
        selection: Rule.
        max_tokens: Bound.
        query: Size of the query map; None is that of the fine one.
        values: Width of the values; that of queries and keys is 32.
    """

    fine: Size
    coarse: Size
    fusion: str
    topk: int
    selection: str = "mean"
    max_tokens: int | None = None
    query: Size | None = None
    values: int = WIDTH


def op_cases(quick: bool) -> Iterator[OpCase]:
    """Every fusion and k on every size; bounds, rules, three maps of their own and wider values on two of them."""
    for (fine, coarse), fusion, k in itertools.product(SMALL if quick else SIZES, FUSIONS, (0, 8, 10**6)):
        if k < 10**6 or fine[0] <= 40:  # all tokens: the reference in float64 would take seconds
            yield OpCase(fine, coarse, fusion, k)
    for (fine, coarse), fusion in itertools.product(SMALL if quick else SIZES[1:3], FUSIONS):
        case = OpCase(fine, coarse, fusion, 8)
        other = case._replace(query=(13, 9))
        rules = ("window", "nearest", *(["query"] if fine[0] < 40 else []))  # "query": a block for each query
        yield from (case._replace(selection=rule) for rule in rules)
        yield from (
            case._replace(max_tokens=20, topk=k, selection=r) for k, r in ((0, "mean"), (8, "mean"), (8, "window"))
        )
        yield from (other._replace(selection=rule) for rule in ("mean", "window"))
        yield from (other._replace(selection=rule, values=48) for rule in ("mean", "window"))


def implementations(device: str) -> list[str]:
    """What ``impl`` may be here, the reference apart."""
    return ["auto", "fused", *(["triton"] if find_spec("triton") is not None and device != "cpu" else [])]


def correctness(device: str, quick: bool, save: Save) -> None:
    """The op, forward and backward, every implementation, dtype and `OpCase`: against float64 on the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for case, dtype, impl in itertools.product(op_cases(quick), BUDGET, implementations(device)):
        if impl != "triton" or case.values == WIDTH:  # whose kernel is for one width
            record = {**case._asdict(), "dtype": str(dtype), "impl": impl}
            save(record | attempt(partial(_op_errors, device, case, dtype, impl)))


def _op_errors(device: str, case: OpCase, dtype: torch.dtype, impl: str) -> dict[str, Any]:
    want = _reference(case, dtype)
    got = _run_op([t.to(device) for t in _op_inputs(case, dtype)], case, impl)
    errors = {name: relative(got[name], want[name]) for name in want}
    record: dict[str, Any] = {"errors": errors, "ok": max(errors.values()) <= BUDGET[dtype]}
    if impl == "auto":
        query = next(_op_inputs(case, dtype)).to(device).requires_grad_()
        tokens = min(case.coarse[0] * case.coarse[1], case.max_tokens or 10**9)
        record["chosen"] = implementation_for(query, tokens, topk=case.topk, fusion=case.fusion)._asdict()
    return record


@lru_cache(maxsize=1)  # the implementations follow one another
def _reference(case: OpCase, dtype: torch.dtype) -> dict[str, Tensor]:
    """What is right for inputs of ``dtype``: float64, on the CPU."""
    return _run_op([t.double() for t in _op_inputs(case, dtype)], case, "reference")


def _op_inputs(case: OpCase, dtype: torch.dtype) -> Iterator[Tensor]:
    """Query, key, value, fine key, fine value, gate's weight and bias: numbers that ``dtype`` holds exactly."""
    generator = torch.Generator().manual_seed(0)
    query, fine, coarse, width = case.query or case.fine, case.fine, case.coarse, case.values
    for size, channels in ((query, WIDTH), (coarse, WIDTH), (coarse, width), (fine, WIDTH), (fine, width)):
        yield torch.randn(2, *size, 2, channels, generator=generator).to(dtype).permute(0, 3, 1, 2, 4)
    yield (0.1 * torch.randn(width, 2 * width, generator=generator)).to(dtype)
    yield torch.zeros(width, dtype=dtype)


def _run_op(leaves: list[Tensor], case: OpCase, impl: str) -> dict[str, Tensor]:
    """Result without and with gradients, and those of a loss that weights every number of the result."""
    query, key, value, fine_key, fine_value, weight, bias = leaves
    options: Any = {"topk": case.topk, "fusion": case.fusion, "selection": case.selection, "impl": impl}

    def call(query: Tensor, key: Tensor, value: Tensor, fine_key: Tensor, fine_value: Tensor) -> Tensor:
        return pyramid_sparse_attention(
            query, key, value, (fine_key, fine_value), gate=(weight, bias), max_tokens=case.max_tokens, **options
        )

    maps = {"query": query, "key": key, "value": value, "fine_key": fine_key, "fine_value": fine_value}
    alone = None if impl == "reference" else call(**maps)
    maps = {name: t.detach().requires_grad_() for name, t in maps.items()}
    out = call(**maps)
    used = {name: t for name, t in maps.items() if case.topk or not name.startswith("fine")}
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    gradients = torch.autograd.grad(out, list(used.values()), cotangent)
    out = out.detach()
    return {"alone": out if alone is None else alone, "out": out, **dict(zip(used, gradients, strict=True))}


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
