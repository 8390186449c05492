"""float16 and bfloat16 stay within an error budget; nothing overflows that its inputs do not.

Every comparison is with the reference in float64 on the same, already rounded inputs, so all of the error is the op's.
"""

from __future__ import annotations

import pytest
import torch

from tensors import Attention, RoundTo

FUSIONS = ("gate", "refine")
HALVES = (torch.float16, torch.bfloat16)
SIZES = [((12, 16), (6, 8)), ((13, 9), (5, 8))]

halves = pytest.mark.parametrize("dtype", HALVES)
fusions = pytest.mark.parametrize("fusion", FUSIONS)
sizes = pytest.mark.parametrize(("fine", "coarse"), SIZES)
topks = pytest.mark.parametrize("topk", [0, 1, 8, 10**6])


@halves
@fusions
@sizes
@topks
def test_error_is_within_the_budget(fine, coarse, topk, fusion, dtype):
    a = Attention.random(fine, coarse, width=8, dtype=dtype, topk=topk, fusion=fusion)
    expected = a.to(torch.float64)(impl="reference")
    with RoundTo(dtype):
        rounded = a.to(torch.float64)(impl="reference")
    # The budget: what rounding each intermediate of the formulas costs. Kernels keep more digits, so stay below it.
    assert (a().double() - expected).norm() <= (rounded - expected).norm()


@halves
@fusions
@sizes
@pytest.mark.parametrize("topk", [1, 8])
def test_selection_is_that_of_float64(fine, coarse, topk, fusion, dtype):
    a = Attention.random(fine, coarse, width=8, dtype=dtype, topk=topk, fusion=fusion)
    seen = []
    a(observer=seen.append)
    a.to(torch.float64)(observer=seen.append)
    assert torch.equal(*seen)


@halves
@fusions
@sizes
@topks
@pytest.mark.parametrize("open_gate", [False, True])
def test_nothing_overflows_that_the_projections_do_not(fine, coarse, topk, fusion, dtype, open_gate):
    a = Attention.random(fine, coarse, width=8, dtype=dtype, topk=topk, fusion=fusion)
    a = a.map(lambda t: (t.float() / t.float().abs().max() * 65504).to(dtype))  # logits reach 1e10
    query, key, value = (t.flatten(2, 3) for t in (a.query, a.key, a.value))
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    if not plain.isfinite().all():
        pytest.skip("this PyTorch's own attention overflows in float16 on the CPU, as 2.4's does")
    if open_gate:  # halfway, so that both branches count in full
        a = a.with_(weight=torch.zeros_like(a.weight), bias=torch.zeros_like(a.bias))
    seen = []
    out = a(observer=seen.append)
    assert out.isfinite().all()
    expected = a.to(torch.float64)(observer=seen.append, impl="reference")
    assert (out.double() - expected).abs().max() <= 8 * torch.finfo(dtype).eps * 65504
    if topk > 0:
        assert torch.equal(*seen)


@fusions
@pytest.mark.parametrize("topk", [0, 8])
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_runs_float32_inputs_in_low_precision(topk, fusion, dtype):
    a = Attention.random((13, 9), (5, 8), width=8, dtype=torch.float32, topk=topk, fusion=fusion)
    with torch.autocast("cpu", dtype):
        out = a()
    expected = a.to(torch.float64)(impl="reference")
    assert (out.double() - expected).norm() <= 4 * torch.finfo(dtype).eps * expected.norm()


@fusions
def test_autocast_casts_the_gate_to_the_dtype_of_the_maps(fusion):
    a = Attention.random((6, 8), (3, 4), dtype=torch.bfloat16, topk=3, fusion=fusion)
    mixed = a.with_(weight=a.weight.float(), bias=a.bias.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mixed(), a())
