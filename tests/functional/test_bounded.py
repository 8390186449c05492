"""A bounded number of coarse tokens: the definition, its limits, and what stays as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from messages import says
from pst.functional import pyramid_sparse_attention
from pst.functional.grid import bounded_size, child_means, pool_tokens
from pst.functional.selection import Nucleus, Window
from tensors import Attention, Watch, assert_close

SIZES = [((8, 12), (4, 6), 6), ((13, 9), (7, 5), 9), ((11, 14), (5, 7), 4), ((9, 9), (9, 9), 10), ((6, 20), (2, 10), 5)]
sizes = pytest.mark.parametrize(("fine", "coarse", "most"), SIZES, ids=str)
OPTIONS: list[dict[str, Any]] = [
    {"topk": 0},
    {"topk": 3},
    {"topk": 3, "fusion": "refine"},
    {"topk": 5, "fusion": "refine", "selection": "mass"},
    {"topk": 2, "fusion": "refine", "selection": Window(grid=3)},
    {"topk": 2, "selection": Window(grid=2)},
    {"topk": 4, "fusion": "refine", "selection": Nucleus(0.5)},
    {"topk": 1000, "fusion": "refine"},
]
options = pytest.mark.parametrize("option", OPTIONS, ids=str)


@options
@sizes
def test_the_fast_way_is_the_definition_in_value_and_gradient(fine, coarse, most, option):
    a = Attention.random(fine, coarse, width=3, max_tokens=most, **option)
    for fast, slow in zip(*(a.run_with_gradients(impl=impl) for impl in ("fused", "reference")), strict=True):
        assert_close(fast, slow, 1e-10)
    with torch.no_grad():
        assert_close(a(impl="auto"), a(impl="reference"), 1e-11)


@options
def test_a_bound_that_is_not_reached_changes_nothing(option):
    a = Attention.random((9, 8), (4, 5), **option)
    assert torch.equal(a(max_tokens=20), a())
    assert not torch.equal(a(max_tokens=19), a()) or option["topk"] == 1000


def test_all_tokens_selected_are_full_fine_attention():
    """Every pooled token is opened, and every coarse one inside it, where pooled ones are of one size."""
    a = Attention.random((8, 12), (4, 6), topk=1000, fusion="refine")
    assert_close(a(max_tokens=6), a())


@sizes
def test_coarse_attention_is_that_to_the_means(fine, coarse, most):
    a = Attention.random(fine, coarse)
    pooled = bounded_size(coarse, most)
    assert pooled is not None
    assert pooled[0] * pooled[1] <= most
    means = [child_means(t.flatten(0, 1).permute(0, 3, 1, 2), pooled) for t in (a.key, a.value)]
    key, value = (t.permute(0, 2, 3, 1).unflatten(0, (2, 2)) for t in means)
    assert_close(a(topk=0, max_tokens=most), pyramid_sparse_attention(a.query, key, value))
    assert_close(pool_tokens(a.key.flatten(2, 3), coarse, pooled), key.flatten(2, 3), 1e-14)


@pytest.mark.parametrize("fine", [(8, 12), (9, 11)])
def test_children_equal_to_their_parent_and_tokens_equal_to_their_mean_change_nothing(fine):
    """In "refine": whatever is opened then holds what it stood for."""
    a = Attention.random(fine, (4, 6), topk=5, fusion="refine", max_tokens=6)
    key, value = (t[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3) for t in (a.key, a.value))
    rows, columns = (torch.arange(n) * m // n for n, m in zip(fine, (4, 6), strict=True))
    children = {f"fine_{n}": t[:, :, rows][:, :, :, columns] for n, t in (("key", key), ("value", value))}
    a = a.with_(key=key, value=value, **children)
    assert_close(a(), a(topk=0))


@pytest.mark.parametrize(
    ("coarse", "most", "wanted"),
    [((20, 20), 100, (10, 10)), ((20, 20), 400, None), ((20, 20), 399, (19, 20)), ((2, 90), 100, (2, 50)),
     ((90, 2), 100, (50, 2)), ((40, 30), 1, (1, 1)), ((7, 9), 50, (7, 7)), ((5, 5), None, None)],
)  # fmt: skip
def test_the_bound_is_kept_by_a_grid_as_square_as_can_be(coarse, most, wanted):
    assert bounded_size(coarse, most) == wanted


def test_cost_grows_with_the_queries_alone():
    def largest(side: int, **options: Any) -> int:
        a = Attention.random((side, side), (side // 2, side // 2), dtype=torch.float32, width=8, batch=1)
        with Watch() as watch, torch.no_grad():
            a(topk=8, fusion="refine", max_tokens=16, **options)
        return watch.written

    assert largest(96) < 4.2 * largest(48)
    assert largest(96, selection=Window(4)) < 4.2 * largest(48, selection=Window(4))


def test_a_nan_in_a_token_that_gives_way_goes_nowhere():
    a = Attention.random((8, 12), (4, 6), topk=2, fusion="refine", max_tokens=6)
    seen: list[torch.Tensor] = []
    a(observer=seen.append)
    value = a.value.clone()
    value.flatten(2, 3)[0, 0, seen[0][0, 0, 0]] = math.nan  # selected: its children stand for it
    out = a.with_(value=value)()
    assert not out.isnan().any()
    assert_close(out, a())


@pytest.mark.parametrize("option", [{"topk": 0}, {"topk": 2}, {"topk": 2, "fusion": "refine"}], ids=str)
@pytest.mark.parametrize("what", ["key", "value"])
def test_nan_and_infinity_go_where_the_definition_lets_them(what, option):
    for bad in (math.nan, math.inf):
        for at in range(0, 24, 5):
            a = Attention.random((8, 12), (4, 6), batch=1, heads=1, max_tokens=6, **option)
            map_ = getattr(a, what).clone()
            map_.flatten(2, 3)[0, 0, at, 0] = bad
            a = a.with_(**{what: map_})
            torch.testing.assert_close(a(impl="fused"), a(impl="reference"), equal_nan=True, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("wrong", "kind"), [(0, ValueError), (2.5, TypeError), (True, TypeError)])
def test_a_bound_that_is_none_is_refused(wrong, kind):
    with pytest.raises(kind, match=says("max_tokens must be … None for no bound")):
        Attention.random()(topk=0, max_tokens=wrong)
