"""NaN and infinities: they spread as in a plain softmax over the tokens that take part, in both implementations."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tensors import Attention

FUSIONS = ("gate", "refine")
RULES = ("mean", "mass", "nucleus", "random", "window")
MAPS = ("query", "key", "value", "fine_key", "fine_value")
SIZES = [((6, 8), (3, 4)), ((7, 5), (3, 2)), ((5, 3), (1, 1)), ((4, 4), (4, 4))]


def spoilt(a: Attention, name: str, number: float, *position: int) -> Attention:
    """With one number of one map replaced; at random without a position."""
    t = getattr(a, name).clone()
    flat = t[position] if position else t.view(-1)
    flat[int(torch.randint(len(flat), (1,)))] = number
    return replace(a, **{name: t})


@pytest.mark.parametrize("selection", RULES)
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=str)
def test_both_implementations_agree(number, fusion, selection):
    for (fine, coarse), name, topk in itertools.product(SIZES, MAPS, (0, 2, 100)):
        a = Attention.random(fine, coarse, topk=topk, fusion=fusion, selection=selection)
        a = spoilt(a, name, number)
        seen: list[Tensor] = []
        actual, expected = a(observer=seen.append), a(impl="reference", observer=seen.append)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda m: f"{name}: {m}")  # noqa: B023
        assert topk == 0 or torch.equal(*seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_nan_is_lost_in_no_precision(name, dtype):
    for (fine, coarse), fusion, topk in itertools.product(SIZES, FUSIONS, (0, 2)):
        a = spoilt(Attention.random(fine, coarse, dtype=dtype, topk=topk, fusion=fusion), name, math.nan)
        assert torch.equal(a().isnan(), a(impl="reference").isnan())


def test_a_token_that_gives_way_to_its_children_takes_its_nan_along():
    a = Attention.random((6, 6), (3, 3), topk=1, fusion="refine")
    bad = spoilt(spoilt(a, "key", math.nan, 0, 0, 1, 1), "value", math.nan, 0, 0, 1, 1)
    seen: list[Tensor] = []
    out = bad(observer=seen.append)
    assert seen[0][0, 0].tolist() == [4]  # what no number ranks comes first
    assert out.isfinite().all()
    assert bad(topk=0)[0, 0].isnan().all()


def test_children_that_were_not_selected_take_no_part():
    a = Attention.random((6, 6), (3, 3), topk=1, fusion="refine")
    seen: list[Tensor] = []
    a(observer=seen.append)
    other = (int(seen[0][0, 0]) + 1) % 9
    bad = spoilt(a, "fine_key", math.nan, 0, 0, 2 * (other // 3), 2 * (other % 3))
    assert torch.equal(bad(), a())


@pytest.mark.parametrize("fine", [(4, 4), (5, 3)], ids=str)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_infinite_query_meets_the_tokens_that_take_part_alone(fusion, fine):
    """Its logits are −∞, and PyTorch's attention gives 0; a key of 0 in an excluded slot would give NaN."""
    a = Attention.random(fine, (2, 2), topk=100, fusion=fusion)
    query = torch.ones_like(a.query)
    query[..., 0] = math.inf
    below = {name: -getattr(a, name).abs() - 0.1 for name in ("key", "fine_key")}
    a = replace(a, query=query, **below)
    torch.testing.assert_close(a(), a(impl="reference"), rtol=1e-9, atol=1e-9)
    assert a().isfinite().all()
