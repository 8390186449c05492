"""Scores, selected tokens, and the map between coarse tokens and their fine children."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pst.functional import child_index, mean_logit_scores, parent_index, select_tokens
from pst.functional._rule import LARGE, highest
from tensors import Attention, assert_close

axes = st.integers(1, 7).flatmap(lambda coarse: st.tuples(st.integers(coarse, 4 * coarse), st.just(coarse)))


def children(fine, coarse):
    """The positions that child_index gives each token, spare slots left out."""
    index, valid = child_index(torch.arange(coarse[0] * coarse[1]), fine, coarse)
    slots = index.unflatten(-1, (coarse[0] * coarse[1], -1))
    kept = torch.ones_like(slots, dtype=torch.bool) if valid is None else valid.unflatten(-1, slots.shape)
    return [row[real].tolist() for row, real in zip(slots, kept, strict=True)]


@given(axes, axes)
def test_child_index_is_the_inverse_of_parent_index(y, x):
    fine, coarse = (y[0], x[0]), (y[1], x[1])
    parent = parent_index(fine, coarse)
    expected = [torch.nonzero(parent == token).flatten().tolist() for token in range(coarse[0] * coarse[1])]
    assert children(fine, coarse) == expected


@given(axes, axes)
def test_parents_follow_the_floor_of_the_relative_position(height, width):
    fine, coarse = zip(height, width, strict=True)
    rows = [y * coarse[0] // fine[0] for y in range(fine[0])]
    columns = [x * coarse[1] // fine[1] for x in range(fine[1])]
    expected = [row * coarse[1] + column for row in rows for column in columns]
    assert parent_index(fine, coarse).tolist() == expected


@given(axes, axes)
def test_every_slot_is_used_exactly_where_the_sizes_divide(y, x):
    fine, coarse = (y[0], x[0]), (y[1], x[1])
    index, valid = child_index(torch.arange(coarse[0] * coarse[1]), fine, coarse)
    divides = fine[0] % coarse[0] == 0 and fine[1] % coarse[1] == 0
    assert (valid is None) == divides
    assert index.min() >= 0
    assert index.max() < fine[0] * fine[1]  # spare slots too can be gathered
    assert index.numel() == coarse[0] * coarse[1] * math.ceil(fine[0] / coarse[0]) * math.ceil(fine[1] / coarse[1])


def test_children_of_the_paper_are_two_by_two():
    index, valid = child_index(torch.tensor([[5]]), (8, 8), (4, 4))  # token (1, 1)
    assert valid is None
    assert index.tolist() == [[2 * 8 + 2, 2 * 8 + 3, 3 * 8 + 2, 3 * 8 + 3]]


def test_scores_are_the_mean_of_the_logits():
    a = Attention.random((5, 6), (2, 3))
    query, key = a.query.flatten(2, 3), a.key.flatten(2, 3)
    logits = query @ key.mT / math.sqrt(4)
    assert_close(mean_logit_scores(query, key, 0.5), logits.mean(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scores_are_float32_and_do_not_overflow(dtype):
    query = torch.full((1, 1, 400, 32), 6e4).to(dtype)
    scores = mean_logit_scores(query, query[:, :, :7], 32**-0.5)
    assert scores.dtype == torch.float32
    value = float(query[0, 0, 0, 0])
    assert_close(scores, torch.full_like(scores, value * value * math.sqrt(32)), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_ties_go_to_the_lower_index(dtype, impl):
    a = Attention.random((6, 8), (3, 4), dtype=dtype, fusion="refine", impl=impl)
    a = a.with_(query=torch.ones_like(a.query))  # small integers: every sum is exact
    seen = []
    a.with_(key=torch.ones_like(a.key))(topk=5, observer=seen.append)
    assert seen[0].tolist() == [[[0, 1, 2, 3, 4]] * 2] * 2

    rank = torch.tensor([1, 3, 2, 3, 1, 0, 3, 2, 1, 0, 2, 3], dtype=dtype)  # 3 at 1, 3, 6, 11; 2 at 2, 7, 10
    key = rank.view(3, 4, 1).expand_as(a.key).contiguous()
    a.with_(key=key)(topk=6, observer=seen.append)
    assert seen[1].tolist() == [[[1, 3, 6, 11, 2, 7]] * 2] * 2


@pytest.mark.parametrize("export", ["torch.onnx.is_in_onnx_export", "torch.jit.is_tracing"])
@pytest.mark.parametrize("topk", [1, 5, 12, 20])
def test_what_is_exported_selects_the_same(topk, export, monkeypatch):
    a = Attention.random()
    query, key = a.query.flatten(2, 3), a.key.flatten(2, 3)
    expected = select_tokens(query, key, topk, scale=0.5)
    monkeypatch.setattr(export, lambda: True)
    assert torch.equal(select_tokens(query, key, topk, scale=0.5), expected)


def test_low_precision_scores_break_ties_that_the_dtype_cannot():
    query = torch.ones(1, 1, 4, 8, dtype=torch.bfloat16)
    key = torch.full((1, 1, 3, 8), 128, dtype=torch.bfloat16)
    key[0, 0, 2, 0] = 129  # sums to 1025, which bfloat16 rounds to 1024
    assert select_tokens(query, key, 1, scale=1.0).item() == 2


def test_selection_is_not_differentiable_and_leaves_no_graph():
    a = Attention.random().map(lambda t: t.requires_grad_())
    selected = select_tokens(a.query.flatten(2, 3), a.key.flatten(2, 3), 3, scale=0.5)
    assert selected.dtype == torch.int64
    assert not selected.requires_grad


# ------------------------------------------------------------------------------------------------------------ gumbel


def gumbel(a: Attention, generator: torch.Generator | None = None, topk: int = 3) -> torch.Tensor:
    maps = a.query.flatten(2, 3), a.key.flatten(2, 3)
    return select_tokens(*maps, topk, scale=0.5, selection="gumbel", generator=generator)


def test_gumbel_draws_from_its_generator_alone():
    a = Attention.random((8, 8), (4, 4))
    before = torch.get_rng_state()
    first, again, other = (gumbel(a, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_gumbel_without_a_generator_draws_from_the_global_one():
    a = Attention.random((8, 8), (4, 4))
    draws = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        draws.append(gumbel(a))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_mean_selection_draws_nothing():
    a = Attention.random((8, 8), (4, 4))
    before = torch.get_rng_state()
    select_tokens(a.query.flatten(2, 3), a.key.flatten(2, 3), 3, scale=0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_gumbel_top_1_samples_from_the_softmax_of_the_scores():
    scores = torch.tensor([0.0, 1.0, -1.0, 0.5])
    draws = 20_000
    key = scores.view(1, 1, 4, 1).expand(draws, 1, 4, 1)
    query = torch.ones(draws, 1, 1, 1)
    picked = select_tokens(
        query, key, 1, scale=1.0, selection="gumbel", generator=torch.Generator().manual_seed(0)
    ).flatten()
    share = torch.bincount(picked, minlength=4) / draws
    expected = scores.softmax(0)
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((share - expected).abs() <= 4 * deviation).all()


@pytest.mark.parametrize("tokens", [16, LARGE])
def test_the_order_of_few_and_of_many_scores_is_the_same(tokens):
    """Ties go to the lower index, 0 and −0 are one, what is not finite comes first."""
    scores = torch.randint(-3, 4, (2, tokens)) / 2.0
    scores[0, 3:6] = torch.tensor([-0.0, math.nan, -math.inf])
    scores[1] = -scores[1].abs() - 0.5  # all below 0
    ranks = torch.where(scores.isfinite(), scores, math.inf).tolist()
    expected = [sorted(range(tokens), key=lambda j, row=row: (-row[j], j))[:9] for row in ranks]
    assert highest(scores, 9).tolist() == expected
