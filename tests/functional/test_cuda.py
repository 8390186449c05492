"""The operator and the layer on a GPU: against float64, in CUDA graphs, compiled, and in little memory."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from lab.bench.blocks import COARSE, GRID, WIDTH, call
from pst.control import attention_layers
from pst.functional import _blocks, pyramid_sparse_attention
from pst.functional.selection import Window
from pst.modules import PST
from pst.profile.memory import added_memory_cuda
from tensors import Attention, relative_error

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICE = "cuda"
BUDGET = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}  # of the largest number
OPTIONS: list[dict[str, Any]] = [
    {"topk": 0, "max_tokens": 20},
    {"topk": 8, "max_tokens": 20},
    {"topk": 8, "fusion": "refine", "max_tokens": 20},
    {"topk": 8, "selection": Window(3)},
    {"topk": 8, "fusion": "refine", "selection": Window(3)},
    {"topk": 8, "fusion": "refine", "selection": Window(3), "max_tokens": 20},
    {"topk": 4, "fusion": "refine", "selection": "nearest"},
    {"topk": 4, "selection": "query"},
]
NAMES = ("query", "key", "value", "fine key", "fine value", "gate's weight", "gate's bias")
options = pytest.mark.parametrize("option", OPTIONS, ids=str)
impls = pytest.mark.parametrize("impl", ["fused", "triton"])


def problem(dtype: torch.dtype = torch.float32, **option: Any) -> Attention:
    """Three maps of their own sizes, on the GPU."""
    a = Attention.random((21, 30), (7, 11), width=32, dtype=dtype, **option)
    return a.with_(query=torch.randn(2, 2, 13, 9, 32, dtype=torch.float64).to(dtype)).map(lambda t: t.to(DEVICE))


@options
@impls
@pytest.mark.parametrize("dtype", BUDGET, ids=str)
def test_values_and_gradients(dtype, impl, option):
    a = problem(dtype, **option)
    wanted = a.map(lambda t: t.cpu()).to(torch.float64).run_with_gradients(impl="reference")
    with torch.no_grad():
        assert relative_error(a(impl=impl).cpu(), wanted[0]) <= BUDGET[dtype]
    for name, got, exact in zip(("out", *NAMES), a.run_with_gradients(impl=impl), wanted, strict=True):
        if exact.count_nonzero() == 0:
            assert got.count_nonzero() == 0, name
        else:
            assert relative_error(got.cpu(), exact) <= BUDGET[dtype], name


@pytest.mark.parametrize("fusion", ["gate", "refine"])
def test_blocks_are_the_same_a_few_at_a_time(fusion):
    a = problem(topk=8, fusion=fusion, selection=Window(3))
    whole = a(impl="fused")
    with patch.dict(_blocks.AT_WORK, {DEVICE: 1}):
        assert relative_error(a(impl="fused"), whole) <= BUDGET[torch.float32]


@impls
@pytest.mark.parametrize("number", [math.nan, math.inf], ids=str)
def test_nan_and_infinity_go_where_the_definition_lets_them(number, impl):
    a = problem(topk=8, fusion="refine", selection=Window(3))
    for name in ("key", "value", "fine_key", "fine_value"):
        if (impl, name, number) == ("triton", "fine_key", math.inf):
            continue  # three tf32 products make NaN of an infinity, and so of a logit of −∞
        spoilt = getattr(a, name).clone()
        spoilt[0, 1, 3, 4, 5] = number
        bad = a.with_(**{name: spoilt})
        wanted = bad.map(lambda t: t.cpu()).to(torch.float64)(impl="reference")
        assert torch.equal(bad(impl=impl).isfinite().cpu(), wanted.isfinite()), name


@options
@impls
def test_a_captured_layer_answers_for_other_inputs(impl, option):
    layer, maps = _layer(impl, option)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            layer(*maps)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = layer(*maps)
        for t in maps:
            t.copy_(torch.randn(t.shape))
        graph.replay()
        assert relative_error(out, layer(*maps)) <= BUDGET[torch.float32]


@pytest.mark.parametrize("option", OPTIONS[2:5:2], ids=str)
@impls
def test_compiled_whole(impl, option):
    torch.compiler.reset()
    a = problem(**option)
    maps = a.tensors()

    def attend(
        query: Tensor, key: Tensor, value: Tensor, fine_key: Tensor, fine_value: Tensor, *gate: Tensor
    ) -> Tensor:
        weight, bias = gate
        return pyramid_sparse_attention(
            query, key, value, (fine_key, fine_value), gate=(weight, bias), impl=impl, **option
        )

    compiled = torch.compile(attend, fullgraph=True)
    with torch.no_grad():
        assert relative_error(compiled(*maps), attend(*maps)) <= BUDGET[torch.float32]
    leaves = [t.clone().requires_grad_() for t in maps]
    gradients = [torch.autograd.grad(f(*leaves).square().sum(), leaves[:5]) for f in (compiled, attend)]
    for got, wanted in zip(*gradients, strict=True):
        assert relative_error(got, wanted) <= BUDGET[torch.float32]


@impls
def test_coarse_tokens_are_not_copied_for_each_block(impl):
    keys = GRID**2 * math.prod(COARSE) * WIDTH * 4 / 1e6  # a copy of the coarse keys alone; the values are as many
    assert added_memory_cuda(call(8, device=DEVICE, impl=impl)) < keys


def _layer(impl: Any, option: dict[str, Any]) -> tuple[torch.nn.Module, tuple[Tensor, Tensor]]:
    """A PST layer of two heads, and its maps."""
    layer = PST(64, 64, 128, **option).eval().to(DEVICE)
    for attention in attention_layers(layer).values():
        attention.impl = impl
    return layer, (torch.randn(2, 64, 18, 22, device=DEVICE), torch.randn(2, 64, 9, 11, device=DEVICE))
