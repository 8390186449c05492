"""What the attention op computes: oracles, limits and invariances, in float64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pst.functional import pyramid_sparse_attention
from pst.functional.attention import gather_tokens
from tensors import Attention, assert_close

FUSIONS = ("gate", "refine")
IMPLEMENTATIONS = ("fused", "reference")
ALL = 10**6  # more tokens than any map here has

fusions = pytest.mark.parametrize("fusion", FUSIONS)
implementations = pytest.mark.parametrize("impl", IMPLEMENTATIONS)


def softmax_attention(query, key, value):
    """Plain attention of every query position to every key position, (B, h, H, W, d) each."""
    logits = torch.einsum("bhyxd,bhrcd->bhyxrc", query, key) / math.sqrt(query.shape[-1])
    weights = logits.flatten(-2).softmax(-1).unflatten(-1, key.shape[2:4])
    return torch.einsum("bhyxrc,bhrcd->bhyxd", weights, value)


def weighted_mean(pairs):
    """Σ w·x / Σ w over pairs (w, x)."""
    return torch.stack([w * x for w, x in pairs]).sum(0) / sum(w for w, _ in pairs)


def oracle(a: Attention, topk: int, fusion: str):
    """docs/method.md, one query at a time, in scalar loops: shares no code with either implementation."""
    batch, heads, height, width, d = a.query.shape
    rows, columns = a.key.shape[2:4]
    out = torch.zeros_like(a.query)
    tokens = [(r, c) for r in range(rows) for c in range(columns)]
    positions = [(y, x) for y in range(height) for x in range(width)]
    owned = {t: [p for p in positions if (p[0] * rows // height, p[1] * columns // width) == t] for t in tokens}
    for b in range(batch):
        for h in range(heads):
            q, k, v, fk, fv = (t[b, h] for t in (a.query, a.key, a.value, a.fine_key, a.fine_value))
            score = {t: sum(float(q[p] @ k[t]) for p in positions) for t in tokens}
            chosen = sorted(tokens, key=lambda t: -score[t])[:topk]
            for p in positions:
                coarse = {t: math.exp(float(q[p] @ k[t]) / math.sqrt(d)) for t in tokens}
                fine = {c: math.exp(float(q[p] @ fk[c]) / math.sqrt(d)) for t in chosen for c in owned[t]}
                if fusion == "gate":
                    o_c = weighted_mean([(coarse[t], v[t]) for t in tokens])
                    o_f = weighted_mean([(fine[c], fv[c]) for c in fine])
                    g = torch.sigmoid(a.weight @ torch.cat([o_c, o_f]) + a.bias)
                    out[b, h][p] = g * o_f + (1 - g) * o_c
                else:
                    pairs = [(coarse[t], v[t]) for t in tokens if t not in chosen]
                    pairs += [(fine[c] / len(owned[t]), fv[c]) for t in chosen for c in owned[t]]
                    out[b, h][p] = weighted_mean(pairs)
    return out


@st.composite
def problems(draw):
    """Random sizes, any ratio ≥ 1 along each axis, k from 0 to more than there are tokens."""
    coarse = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    fine = tuple(draw(st.integers(n, 3 * n + 2)) for n in coarse)
    torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
    return Attention.random(
        fine,
        coarse,
        batch=draw(st.integers(1, 2)),
        heads=draw(st.integers(1, 3)),
        width=draw(st.sampled_from([1, 2, 5, 8])),
        topk=draw(st.integers(0, coarse[0] * coarse[1] + 3)),
        fusion=draw(st.sampled_from(FUSIONS)),
        selection=draw(st.sampled_from(["mean", "gumbel"])),
    )


@settings(max_examples=150)
@given(problems())
def test_fused_equals_reference_in_value_and_gradient(attention):
    seed = torch.initial_seed()
    fused, reference = (
        attention.run_with_gradients(impl=impl, generator=torch.Generator().manual_seed(seed))
        for impl in IMPLEMENTATIONS
    )
    scale = max(t.abs().max() for t in reference)  # some gradients vanish but for rounding
    for actual, expected in zip(fused, reference, strict=True):
        assert (actual - expected).abs().max() <= 1e-12 * scale


@fusions
@implementations
@pytest.mark.parametrize(
    ("fine", "coarse", "topk"),
    [((4, 6), (2, 3), 2), ((5, 3), (2, 2), 3), ((5, 4), (5, 4), 7), ((7, 2), (3, 1), 1), ((3, 4), (1, 1), 1)],
)
def test_equals_the_spec_in_scalar_loops(fine, coarse, topk, fusion, impl):
    a = Attention.random(fine, coarse, width=3)
    assert_close(a(topk=topk, fusion=fusion, impl=impl), oracle(a, topk, fusion))


@fusions
@implementations
@pytest.mark.parametrize("topk", [0, 2])
def test_gradients_equal_finite_differences(topk, fusion, impl):
    a = Attention.random((3, 4), (2, 2), batch=1, width=2).map(lambda t: t.requires_grad_())

    def function(*tensors):
        return Attention(*tensors)(topk=topk, fusion=fusion, impl=impl)

    assert torch.autograd.gradcheck(function, a.tensors())


# ---------------------------------------------------------------------------------------------------------- limits


@fusions
@implementations
def test_without_refinement_it_is_plain_attention_to_the_coarse_map(fusion, impl):
    a = Attention.random((5, 7), (2, 3))
    assert_close(a(topk=0, fusion=fusion, impl=impl), softmax_attention(a.query, a.key, a.value))


@implementations
def test_refining_every_token_is_plain_attention_to_the_fine_map(impl):
    a = Attention.random((6, 9), (3, 3))  # every token has 2·3 children
    expected = softmax_attention(a.query, a.fine_key, a.fine_value)
    assert_close(a(topk=9, fusion="refine", impl=impl), expected)


@implementations
@pytest.mark.parametrize("fine", [(6, 8), (7, 5)])
def test_open_gate_with_every_token_is_plain_attention_to_the_fine_map(fine, impl):
    a = Attention.random(fine, (3, 4)).with_(bias=torch.full((4,), 1e3, dtype=torch.float64))
    expected = softmax_attention(a.query, a.fine_key, a.fine_value)
    assert_close(a(topk=12, fusion="gate", impl=impl), expected)


@implementations
def test_closed_gate_is_coarse_attention(impl):
    a = Attention.random().with_(bias=torch.full((4,), -1e3, dtype=torch.float64))
    assert_close(a(topk=3, fusion="gate", impl=impl), a(topk=0, impl=impl))


@implementations
def test_a_gate_without_weights_is_the_mean_of_both_branches(impl):
    a = Attention.random()
    half = a.with_(weight=torch.zeros_like(a.weight), bias=torch.zeros_like(a.bias))
    opened, closed = (a.with_(bias=torch.full_like(a.bias, b)) for b in (1e3, -1e3))
    run = {"topk": 3, "fusion": "gate", "impl": impl}
    assert_close(half(**run), (opened(**run) + closed(**run)) / 2)


@implementations
@pytest.mark.parametrize("fine", [(6, 8), (7, 9), (3, 4), (5, 11)])
@pytest.mark.parametrize("topk", [1, 5, 12])
def test_children_equal_to_their_parent_change_nothing(fine, topk, impl):
    a = Attention.random(fine, (3, 4))
    parents = [(y * 3 // fine[0], x * 4 // fine[1]) for y in range(fine[0]) for x in range(fine[1])]
    rows, columns = (list(axis) for axis in zip(*parents, strict=True))
    a = a.with_(
        fine_key=a.key[:, :, rows, columns].unflatten(2, fine),
        fine_value=a.value[:, :, rows, columns].unflatten(2, fine),
    )
    assert_close(a(topk=topk, fusion="refine", impl=impl), a(topk=0, impl=impl))


@fusions
@implementations
def test_more_tokens_than_there_are_means_all(fusion, impl):
    a = Attention.random((5, 8), (3, 4))
    every, more = (a(topk=k, fusion=fusion, impl=impl) for k in (12, ALL))
    assert torch.equal(every, more)


# ----------------------------------------------------------------------------------------------------- invariances


@fusions
@pytest.mark.parametrize("fine", [(6, 8), (7, 5)])
def test_order_of_queries_images_and_heads_does_not_matter(fine, fusion):
    a = Attention.random(fine, (3, 4), batch=3, heads=3)
    run = {"topk": 4, "fusion": fusion}
    out, n = a(**run), fine[0] * fine[1]

    order = torch.randperm(n)
    shuffled = a.with_(query=a.query.flatten(2, 3)[:, :, order].unflatten(2, fine))
    assert_close(shuffled(**run), out.flatten(2, 3)[:, :, order].unflatten(2, fine))

    for axis in (0, 1):
        order = torch.tensor([2, 0, 1])
        maps = ("query", "key", "value", "fine_key", "fine_value")
        shuffled = a.with_(**{name: getattr(a, name).index_select(axis, order) for name in maps})
        assert_close(shuffled(**run), out.index_select(axis, order))


@fusions
def test_each_image_and_head_is_attended_on_its_own(fusion):
    a = Attention.random((5, 8), (2, 3), batch=2, heads=2)
    out = a(topk=2, fusion=fusion)
    for b in range(2):
        for h in range(2):
            maps = ("query", "key", "value", "fine_key", "fine_value")
            one = a.with_(**{name: getattr(a, name)[b : b + 1, h : h + 1] for name in maps})
            assert_close(one(topk=2, fusion=fusion), out[b : b + 1, h : h + 1])


@fusions
@pytest.mark.parametrize("fine", [(6, 8), (7, 5)])
def test_one_offset_on_all_keys_does_not_matter(fine, fusion):
    a = Attention.random(fine, (3, 4))
    offset = torch.randn(4, dtype=torch.float64)
    shifted = a.with_(key=a.key + offset, fine_key=a.fine_key + offset)
    assert_close(shifted(topk=4, fusion=fusion), a(topk=4, fusion=fusion))


@fusions
def test_flipping_the_maps_flips_the_result_where_the_sizes_divide(fusion):
    a = Attention.random((6, 8), (3, 4))
    flip = partial(torch.flip, dims=(2, 3))
    maps = ("query", "key", "value", "fine_key", "fine_value")
    flipped = a.with_(**{name: flip(getattr(a, name)) for name in maps})
    assert_close(flipped(topk=4, fusion=fusion), flip(a(topk=4, fusion=fusion)))


@fusions
@pytest.mark.parametrize("fine", [(6, 8), (7, 5)])
def test_a_mean_of_equal_values_is_that_value(fine, fusion):
    a = Attention.random(fine, (3, 4))
    value = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    same = a.with_(value=value.expand_as(a.value), fine_value=value.expand_as(a.fine_value))
    assert_close(same(topk=4, fusion=fusion), value.expand_as(a.query))


@fusions
@pytest.mark.parametrize("fine", [(6, 8), (7, 5)])
def test_only_children_of_selected_tokens_matter(fine, fusion):
    a = Attention.random(fine, (3, 4), batch=1, heads=1)
    selected = []
    out = a(topk=3, fusion=fusion, observer=selected.append)
    chosen = set(selected[0].flatten().tolist())
    idle = [
        (y, x) for y in range(fine[0]) for x in range(fine[1]) if y * 3 // fine[0] * 4 + x * 4 // fine[1] not in chosen
    ]
    fine_key, fine_value = a.fine_key.clone(), a.fine_value.clone()
    for y, x in idle:
        fine_key[:, :, y, x] = fine_value[:, :, y, x] = torch.nan
    assert torch.equal(a.with_(fine_key=fine_key, fine_value=fine_value)(topk=3, fusion=fusion), out)


# ------------------------------------------------------------------------------------------------------- arguments


@fusions
@implementations
def test_fine_tokens_may_be_a_function_of_the_positions(fusion, impl):
    a = Attention.random((5, 8), (2, 3))
    asked = []

    def fine(index):
        asked.append(index)
        index = index[..., None].expand(-1, -1, -1, 4)
        return a.fine_key.flatten(2, 3).gather(2, index), a.fine_value.flatten(2, 3).gather(2, index)

    gate = (a.weight, a.bias)
    out = pyramid_sparse_attention(a.query, a.key, a.value, fine, topk=2, fusion=fusion, gate=gate, impl=impl)
    assert torch.equal(out, a(topk=2, fusion=fusion, impl=impl))
    assert len(asked) == 1
    assert asked[0].dtype == torch.int64


@implementations
@pytest.mark.parametrize("selection", ["mean", "window"])
def test_the_gate_may_be_a_function_of_both_branches(selection, impl):
    a, widths = Attention.random((5, 8), (2, 3), selection=selection), []

    def gate(branches):
        widths.append(branches.shape[-1])
        return torch.nn.functional.linear(branches, a.weight, a.bias)

    assert_close(a(topk=2, gate=gate, impl=impl), a(topk=2, impl=impl))
    assert widths == [8]
    with pytest.raises(ValueError, match=r"the gate must give 4 channels for 8, got shape"):
        a(topk=2, gate=lambda branches: branches, impl=impl)
    a(topk=0, gate=None, impl=impl)


@fusions
@implementations
def test_observer_sees_the_selection(fusion, impl):
    a = Attention.random((5, 8), (2, 3))
    seen = []
    a(topk=4, fusion=fusion, impl=impl, observer=seen.append)
    a(topk=ALL, fusion=fusion, impl=impl, observer=seen.append)
    a(topk=0, fusion=fusion, impl=impl, observer=seen.append)  # selects nothing
    assert [tuple(t.shape) for t in seen] == [(2, 2, 4), (2, 2, 6)]
    scores = torch.einsum("bhyxd,bhrcd->bhrc", a.query, a.key).flatten(2)
    assert torch.equal(seen[0], scores.argsort(-1, descending=True)[..., :4])
    assert torch.equal(seen[1][..., :4], seen[0])


@fusions
@implementations
def test_scale_replaces_the_inverse_root_of_the_width(fusion, impl):
    a = Attention.random()
    run = {"topk": 3, "fusion": fusion, "impl": impl}
    assert torch.equal(a(scale=0.5, **run), a(**run))  # 1/√4
    assert_close(a.with_(query=a.query * 3)(scale=0.1, **run), a(scale=0.3, **run))


@implementations
def test_gate_and_fine_tokens_are_not_looked_at_where_they_are_not_needed(impl):
    a = Attention.random()
    fine = (a.fine_key, a.fine_value)
    coarse = pyramid_sparse_attention(a.query, a.key, a.value, impl=impl)
    refined = pyramid_sparse_attention(a.query, a.key, a.value, fine, topk=3, fusion="refine", impl=impl)
    assert torch.equal(coarse, a(topk=0, impl=impl))
    assert torch.equal(refined, a(topk=3, fusion="refine", impl=impl))


@fusions
def test_numpy_integers_count_as_integers(fusion):
    import numpy as np

    a = Attention.random()
    assert torch.equal(a(topk=np.int64(3), fusion=fusion), a(topk=3, fusion=fusion))
    bounded = a(topk=3, fusion=fusion, max_tokens=4)
    assert torch.equal(a(topk=3, fusion=fusion, max_tokens=np.int32(4)), bounded)


@fusions
@pytest.mark.parametrize("topk", [0, 3])
def test_strided_tensors_give_the_same(topk, fusion):
    a = Attention.random((6, 8), (3, 4), dtype=torch.float32)
    strided = a.map(lambda t: torch.stack([t, -t], -1)[..., 0])
    assert not strided.query.is_contiguous()
    assert_close(strided(topk=topk, fusion=fusion), a(topk=topk, fusion=fusion), 1e-6)


@pytest.mark.parametrize("count", [5, 300])
def test_tokens_are_gathered_alike_with_and_without_gradients(count):
    """Few and many at a time, from keys that are strided as the layers' are."""
    key, value = torch.randn(2, 40, 3, 8).transpose(1, 2).chunk(2, -1)
    index = torch.randint(40, (2, 3, count))
    expected = [torch.stack([t[b, h, index[b, h]] for b in range(2) for h in range(3)]) for t in (key, value)]
    for wanted in (False, True):
        picked = gather_tokens(key.detach().requires_grad_(wanted), value)(index)
        assert all(torch.equal(a.flatten(0, 1), b) for a, b in zip(picked, expected, strict=True))
