"""What the fused path may not do: form an N×M tensor, or touch the fine branch when k = 0."""

from __future__ import annotations

import pytest
import torch

from pst.functional import pyramid_sparse_attention
from tensors import Attention, Watch

SIZES = [((48, 48), (24, 24)), ((47, 49), (24, 23))]  # odd sizes need a mask
FUSIONS = ("gate", "refine")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@dtypes
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("topk", [0, 8])
@pytest.mark.parametrize(("fine", "coarse"), SIZES)
def test_memory_grows_with_the_number_of_tokens_alone(fine, coarse, topk, fusion, backward, dtype):
    a = Attention.random(fine, coarse, width=8, dtype=dtype, topk=topk, fusion=fusion)
    a = a.map(lambda t: t.requires_grad_(backward))
    with Watch() as watch:
        out = a()
        if backward:
            out.backward(torch.ones_like(out))
    assert watch.largest >= a.query.numel()  # the result was seen
    # the gate looks at both branches side by side: twice the query map
    assert watch.largest <= 2 * a.query.numel()
    logits = 2 * 2 * fine[0] * fine[1] * coarse[0] * coarse[1]
    assert watch.largest < logits / 10


def test_the_watch_sees_the_logits_of_the_reference():
    fine, coarse = SIZES[0]
    a = Attention.random(fine, coarse, width=8, dtype=torch.float32)
    with Watch() as watch:
        a(topk=0, impl="reference")
    assert watch.largest >= 2 * 2 * fine[0] * fine[1] * coarse[0] * coarse[1]


def test_fine_tokens_are_never_asked_for_when_k_is_0():
    a = Attention.random(dtype=torch.float32)

    def fine(index):
        raise AssertionError("asked for fine tokens")

    pyramid_sparse_attention(a.query, a.key, a.value, fine, topk=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_only_children_are_asked_for(fusion):
    a = Attention.random((9, 8), (3, 4), dtype=torch.float32)
    asked = []

    def fine(index):
        asked.append(index)
        return torch.zeros(*index.shape, 4), torch.zeros(*index.shape, 4)

    gate = (a.weight, a.bias)
    pyramid_sparse_attention(a.query, a.key, a.value, fine, topk=2, fusion=fusion, gate=gate)
    assert tuple(asked[0].shape) == (2, 2, 2 * 3 * 2)
