"""The rows: what each does to a pair of maps, and what it costs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lab.two_maps.attend import apply, attend, everything
from lab.two_maps.rows import ROWS, Row
from pst.functional.selection import Window

Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def maps() -> Maps:
    draw = torch.Generator().manual_seed(0)
    query, key = (F.normalize(torch.randn(16, 24, 32, generator=draw), dim=0) for _ in range(2))
    return query, key, torch.rand(3, 24, 32, generator=draw)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.plain()])
def test_the_general_form_of_a_row_is_what_carry_does(maps: Maps, name):
    assert_close(attend(ROWS[name], *maps, 10.0), apply(ROWS[name], *maps, 10.0), atol=1e-5, rtol=0)


def test_all_fine_by_two_products_is_the_softmax_and_k_of_all_coarse_positions(maps: Maps):
    query, key, value = maps
    unit = F.normalize(query, dim=0).flatten(1).mT @ F.normalize(key, dim=0).flatten(1)
    wanted = ((10 * unit).softmax(1) @ value.flatten(1).mT).mT.unflatten(1, (24, 32))
    assert_close(everything(*maps, 10.0), wanted, atol=1e-5, rtol=0)
    assert_close(apply(Row("all", topk=48, selection=Window(4)), *maps, 10.0), wanted, atol=1e-5, rtol=0)


def test_a_learned_scale_is_the_same_as_a_number(maps: Maps):
    row = ROWS["window-8"]
    scale = torch.tensor(10.0, requires_grad=True)
    out = attend(row, *maps, scale)
    assert_close(out, attend(row, *maps, 10.0), atol=1e-5, rtol=0)
    out.square().sum().backward()
    assert scale.grad is not None
    assert scale.grad != 0


def test_half_is_the_mean_of_coarse_attention_and_of_attention_to_the_children(maps: Maps):
    row = Row("half", topk=48, fusion="half", selection=Window(4))
    wanted = (apply(ROWS["k0"], *maps, 10.0) + apply(ROWS["all"], *maps, 10.0)) / 2
    assert_close(apply(row, *maps, 10.0), wanted, atol=1e-5, rtol=0)


def test_coarse_tokens_may_copy_the_child_in_the_middle(maps: Maps):
    query, key, value = maps
    wanted = apply(ROWS["all"], query, key[:, 2::4, 2::4], value[:, 2::4, 2::4], 10.0)
    assert_close(apply(ROWS["centre-k0"], *maps, 10.0), wanted, atol=1e-5, rtol=0)


def test_without_unit_length_the_length_counts(maps: Maps):
    query, key, value = maps
    longer = key * 2
    assert_close(apply(ROWS["k0"], query, longer, value, 10.0), apply(ROWS["k0"], query, key, value, 10.0))
    assert_close(apply(ROWS["dot-k0"], query, longer, value, 0.1), apply(ROWS["dot-k0"], query, key, value, 0.2))


def test_products_are_counted():
    fine = (88, 120)
    n, m = 88 * 120, 22 * 30
    assert ROWS["k0"].products(fine) == n * m
    assert ROWS["all"].products(fine) == n * n
    assert ROWS["window-8"].products(fine) == n * (m + 8 * 16) + 24 * 24 * m
    assert ROWS["nearest"].products(fine) == n * (m + 8 * 16)
    assert ROWS["query-8"].products(fine) == n * (2 * m + 8 * 16)
    assert ROWS["dense-products"].products(fine) == pytest.approx(ROWS["window-8"].products(fine), rel=0.01)
