"""Every selection rule: naive oracles, limits, invariances, both fusions, and what it may not form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from messages import says
from pst.functional import mass_scores, pyramid_sparse_attention, select_tokens
from pst.functional.grid import block_grid, block_index, join_blocks, split_blocks
from pst.functional.scores import rounded
from pst.functional.selection import (
    RULES,
    Gumbel,
    Mass,
    Mean,
    Nearest,
    Nucleus,
    Query,
    Random,
    Selected,
    SelectionRule,
    Tokens,
    Window,
    check_selection,
    from_plain,
    highest,
    to_plain,
)
from tensors import Attention, Watch, assert_close

ALL = 10**6  # more tokens than any map here has
RULES_TO_TEST: tuple[SelectionRule, ...] = (
    Mass(), Window(), Window(grid=1), Window(grid=3), Nucleus(0.5), Nucleus(0.9), Nucleus(1.0), Random(),
    Random(seed=-5), Random(grid=3), Nearest(), Nearest(grid=3), Query(),
)  # fmt: skip
rules = pytest.mark.parametrize("rule", RULES_TO_TEST, ids=repr)
fusions = pytest.mark.parametrize("fusion", ["gate", "refine"])
SIZES = (((6, 8), (3, 4)), ((7, 5), (3, 4)), ((13, 9), (7, 5)), ((11, 8), (3, 8)), ((4, 7), (4, 7)), ((1, 1), (1, 1)))
sizes = pytest.mark.parametrize(("fine", "coarse"), SIZES)


def flat(a: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    return a.query.flatten(2, 3), a.key.flatten(2, 3)


def logits_of(a: Attention, b: int, h: int) -> list[list[float]]:
    """Logits of one image and head as plain numbers: [query][token]."""
    query, key = flat(a)
    return [[float(q @ k) / math.sqrt(len(q)) for k in key[b, h]] for q in query[b, h]]


def probabilities(row: list[float]) -> list[float]:
    weights = [math.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def column_means(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def best(scores: Sequence[float | Fraction], k: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda j: -scores[j])[:k]


# ----------------------------------------------------------------------------------------------------------- oracles


@sizes
@pytest.mark.parametrize("magnitude", [1.0, 4.0])
def test_mass_is_the_mean_attention_that_a_token_receives(fine, coarse, magnitude):
    a = Attention.random(fine, coarse, magnitude=magnitude)
    scores = mass_scores(*flat(a), 0.5)
    for b, h in itertools.product(range(2), range(2)):
        expected = column_means([probabilities(row) for row in logits_of(a, b, h)])
        assert_close(scores[b, h], torch.tensor(expected, dtype=torch.float64), 1e-11)
        assert select_tokens(*flat(a), 3, scale=0.5, selection="mass")[b, h].tolist() == best(expected, 3)


def test_mass_differs_from_the_mean_logit():
    """One query looks at token 0 alone, nine prefer token 1: the mean logit follows the one."""
    key = torch.eye(2, dtype=torch.float64)[None, None]
    query = torch.tensor([[30.0, 0.0]] + [[0.0, 2.0]] * 9, dtype=torch.float64)[None, None]
    assert select_tokens(query, key, 1, scale=1.0, selection="mean").item() == 0
    assert select_tokens(query, key, 1, scale=1.0, selection="mass").item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_mass_is_accurate_where_attention_is_sharp_and_in_low_precision(dtype):
    query, key = torch.randn(1, 2, 300, 16) * 20, torch.randn(1, 2, 70, 16)
    query, key = query.to(dtype), key.to(dtype)
    expected = (query.double() @ key.double().mT / 4).softmax(-1).mean(2)
    scores = mass_scores(query, key, 0.25)
    assert scores.dtype == torch.float32
    assert_close(scores, expected.float(), 1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mass_scores(query, key, 0.25), scores)


@pytest.mark.parametrize("magnitude", [1e2, 1e4])
def test_mass_is_exact_where_each_query_attends_to_one_token(magnitude):
    query, key = torch.randn(1, 1, 50, 8) * magnitude, torch.randn(1, 1, 9, 8)
    winners = (query @ key.mT).argmax(-1).flatten()
    expected = torch.bincount(winners, minlength=9) / 50
    if magnitude > 1e3:
        assert_close(mass_scores(query, key, 1.0)[0, 0], expected, 1e-2)
    exact = (query.double() @ key.double().mT).softmax(-1).mean(2)
    assert_close(mass_scores(query, key, 1.0), exact, 1e-2 if magnitude > 1e3 else 1e-4)


@sizes
@pytest.mark.parametrize("grid", [1, 2, 4, 50])
def test_each_window_picks_by_its_own_mean_logit(fine, coarse, grid):
    a = Attention.random(fine, coarse)
    picked = select_tokens(*flat(a), 3, scale=0.5, selection=Window(grid), size=fine)
    rows, columns = min(grid, fine[0]), min(grid, fine[1])
    assert picked.shape[:3] == (2, 2, rows * columns)
    for b, h in itertools.product(range(2), range(2)):
        logits = logits_of(a, b, h)
        for row, column in itertools.product(range(rows), range(columns)):
            inside = [
                logits[y * fine[1] + x]
                for y, x in itertools.product(range(fine[0]), range(fine[1]))
                if (y * rows // fine[0], x * columns // fine[1]) == (row, column)
            ]
            assert picked[b, h, row * columns + column].tolist() == best(column_means(inside), 3)


@sizes
def test_each_query_picks_by_its_own_logits(fine, coarse):
    a = Attention.random(fine, coarse)
    picked = select_tokens(*flat(a), 3, scale=0.5, selection="query", size=fine)
    for b, h in itertools.product(range(2), range(2)):
        assert picked[b, h].tolist() == [best(row, 3) for row in logits_of(a, b, h)]


@sizes
@pytest.mark.parametrize("grid", [1, 2, 4, 50])
def test_each_block_has_the_tokens_that_lie_nearest_to_its_centre(fine, coarse, grid):
    a = Attention.random(fine, coarse)
    picked = select_tokens(*flat(a), 3, scale=0.5, selection=Nearest(grid), size=fine, coarse_size=coarse)
    rows, columns = min(grid, fine[0]), min(grid, fine[1])
    for row, column in itertools.product(range(rows), range(columns)):
        y, x = Fraction(2 * row + 1, 2 * rows), Fraction(2 * column + 1, 2 * columns)  # of the map's height and width
        near = [
            -((coarse[0] * y - r - Fraction(1, 2)) ** 2) - (coarse[1] * x - c - Fraction(1, 2)) ** 2
            for r, c in itertools.product(range(coarse[0]), range(coarse[1]))
        ]
        expected = torch.tensor(best(near, 3)).expand(2, 2, -1)
        assert torch.equal(picked[:, :, row * columns + column], expected)


def test_random_tokens_of_blocks_are_drawn_for_each_block():
    query, key = torch.zeros(1, 2, 36, 1), torch.zeros(1, 2, 40, 1)
    picked = select_tokens(query, key, 8, scale=1.0, selection=Random(grid=3), size=(6, 6))
    assert picked.shape == (1, 2, 9, 8)
    assert len({tuple(row) for row in picked.flatten(0, 2).tolist()}) == 18  # no two blocks or heads alike
    assert all(len(set(row)) == 8 for row in picked.flatten(0, 2).tolist())


@sizes
@pytest.mark.parametrize("rule", [Mean(), Window(3), Query()], ids=repr)
def test_exact_ties_go_to_the_lower_index(fine, coarse, rule):
    """Small whole numbers, whose sums have no rounding: equal scores are equal whatever the block's size."""
    for seed in range(10):
        torch.manual_seed(seed)
        a = Attention.random(fine, coarse, topk=3, fusion="refine", selection=rule)
        a = a.with_(query=torch.randint_like(a.query, -2, 3), key=torch.randint_like(a.key, -1, 2))
        seen: list[torch.Tensor] = []
        for impl in ("fused", "reference"):
            a(impl=impl, observer=seen.append)
        assert torch.equal(*seen)


def test_select_tokens_names_the_size_that_does_not_fit():
    query, key = torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 4, 2)
    with pytest.raises(ValueError, match=says("coarse_size must hold M=4 positions, got (2, 3)")):
        select_tokens(query, key, 1, scale=1.0, selection="nearest", coarse_size=(2, 3))


@sizes
@pytest.mark.parametrize("p", [0.2, 0.6, 0.95, 1.0])
def test_the_nucleus_is_the_shortest_head_of_the_list_that_reaches_its_share(fine, coarse, p):
    a = Attention.random(fine, coarse, magnitude=2.0)
    picked = select_tokens(*flat(a), 5, scale=0.5, selection=Nucleus(p))
    for b, h in itertools.product(range(2), range(2)):
        scores = column_means(logits_of(a, b, h))
        mass, order = probabilities(scores), best(scores, 5)
        used = next((n for n in range(1, len(order) + 1) if sum(mass[j] for j in order[:n]) >= p), len(order))
        assert picked[b, h].tolist() == order[:used] + [-1] * (len(order) - used)


def test_a_nucleus_is_as_long_as_the_scores_are_flat():
    query = torch.ones(1, 1, 4, 1)
    peaked, even = torch.tensor([9.0, 0.0, 0.0, 0.0]), torch.zeros(4)
    lengths = [
        int((select_tokens(query, key.view(1, 1, 4, 1), 4, scale=1.0, selection=Nucleus(0.7)) >= 0).sum())
        for key in (peaked, even)
    ]
    assert lengths == [1, 3]


def test_random_tokens_depend_on_seed_head_and_number_of_tokens_alone():
    def draw(seed: int, tokens: int = 40, batch: int = 2) -> list[list[int]]:
        query, key = torch.randn(batch, 3, 6, 4), torch.randn(batch, 3, tokens, 4)
        picked = select_tokens(query, key, 8, scale=1.0, selection=Random(seed))
        assert all(torch.equal(image, picked[0]) for image in picked)
        return picked[0].tolist()

    first = draw(0)
    assert draw(0) == draw(0, batch=5) == first
    assert len({tuple(row) for seed in range(4) for row in draw(seed)}) == 12  # no two seeds or heads alike
    assert draw(0, tokens=41) != first
    before = torch.get_rng_state()
    draw(0)
    state = torch.get_rng_state()
    torch.set_rng_state(before)
    for shape in ((2, 3, 6, 4), (2, 3, 40, 4)):
        torch.randn(shape)
    assert torch.equal(torch.get_rng_state(), state)  # the rule itself draws nothing


def test_random_tokens_are_spread_evenly():
    query, key = torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 64, 1)
    seeds = 250
    picked = torch.stack([select_tokens(query, key, 8, scale=1.0, selection=Random(seed)) for seed in range(seeds)])
    counts = torch.bincount(picked.flatten(), minlength=64).double()
    expected = seeds * 4 * 8 / 64
    chi2 = ((counts - expected) ** 2 / (expected * (1 - 8 / 64))).sum().item()
    assert 63 - 4 * math.sqrt(126) < chi2 < 63 + 4 * math.sqrt(126)
    pairs = torch.bincount((picked.sort(-1).values.diff(dim=-1) == 1).sum(-1).flatten(), minlength=8).double()
    mean = (pairs * torch.arange(len(pairs))).sum() / pairs.sum()
    assert abs(mean - 8 * 7 / 64) < 0.15  # neighbours come together as often as by chance


# ------------------------------------------------------------------------------------------- fused against reference


@st.composite
def problems(draw):
    coarse = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    fine = tuple(draw(st.integers(n, 3 * n + 2)) for n in coarse)
    torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
    return Attention.random(
        fine,
        coarse,
        batch=draw(st.integers(1, 2)),
        heads=draw(st.integers(1, 2)),
        width=draw(st.sampled_from([1, 2, 5])),
        topk=draw(st.integers(1, coarse[0] * coarse[1] + 3)),
        fusion=draw(st.sampled_from(["gate", "refine"])),
        selection=draw(st.sampled_from(RULES_TO_TEST)),
    )


@settings(max_examples=100)
@given(problems())
def test_fused_equals_reference_in_selection_value_and_gradient(attention):
    seen: list[torch.Tensor] = []
    fused, reference = (
        attention.run_with_gradients(impl=impl, observer=seen.append) for impl in ("fused", "reference")
    )
    assert torch.equal(*seen)
    scale = max(t.abs().max() for t in reference)  # some gradients vanish but for rounding
    for actual, expected in zip(fused, reference, strict=True):
        assert (actual - expected).abs().max() <= 1e-12 * scale


class EveryOther:
    """A rule of a user's own: even tokens, the first of each block unused but for one, in two blocks."""

    def select(self, tokens: Tokens) -> Selected:
        batch, heads, count = tokens.key.shape[:3]
        even = torch.arange(0, count, 2)[: tokens.topk].expand(batch, heads, 2, -1)
        valid = torch.ones_like(even, dtype=torch.bool)
        valid[:, :, 0, 1:] = False
        return Selected(even, valid, (2, 1))


@fusions
@pytest.mark.parametrize(("fine", "coarse"), SIZES[:-1])  # the rule divides the map into two rows
def test_a_rule_of_a_users_own_is_accepted(fine, coarse, fusion):
    a = Attention.random(fine, coarse, topk=3, fusion=fusion, selection=EveryOther())
    seen: list[torch.Tensor] = []
    assert_close(a(observer=seen.append), a(impl="reference", observer=seen.append))
    assert torch.equal(*seen)
    assert seen[0][:, :, 0, 1:].unique().tolist() == [-1]


# ----------------------------------------------------------------------------------------------------------- limits


@fusions
@sizes
@pytest.mark.parametrize("rule", [Window(grid=1), Nucleus(1.0), Mean()], ids=repr)
def test_these_are_the_paper_s_rule(fine, coarse, fusion, rule):
    a = Attention.random(fine, coarse, topk=4, fusion=fusion)
    assert_close(a(selection=rule), a(selection="mean"))


@fusions
@sizes
@pytest.mark.parametrize("rule", [Mass(), Window(), Random(), Random(grid=2), Nearest(), Query()], ids=repr)
def test_every_rule_selects_all_tokens_when_k_is_large(fine, coarse, fusion, rule):
    a = Attention.random(fine, coarse, topk=ALL, fusion=fusion)
    assert_close(a(selection=rule), a(selection="mean"), 1e-11)


@sizes
def test_blocks_share_all_tokens_where_k_is_large(fine, coarse):
    """One attention for all queries, as fast as without blocks, and each block still says what it selected."""
    a = Attention.random(fine, coarse, topk=ALL, fusion="refine")
    seen: list[torch.Tensor] = []
    with Watch() as blocks:
        a(selection=Window(3), observer=seen.append)
    with Watch() as shared:
        a(selection="mean")
    assert seen[0].shape == (2, 2, min(3, fine[0]) * min(3, fine[1]), coarse[0] * coarse[1])
    assert blocks.largest <= max(shared.largest, seen[0].numel())


@fusions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_slot_of_a_nucleus_changes_nothing(fusion, dtype):
    a = Attention.random((9, 12), (3, 4), dtype=dtype, fusion=fusion, selection=Nucleus(1e-9))
    seen: list[torch.Tensor] = []
    one, eight = a(topk=1, observer=seen.append), a(topk=8, observer=seen.append)
    assert seen[1].shape[-1] == 8
    assert torch.equal(seen[1][..., :1], seen[0])
    assert seen[1][..., 1:].unique().tolist() == [-1]
    assert_close(eight, one, 1e-6 if dtype == torch.float32 else 2e-2)


@rules
@fusions
@pytest.mark.parametrize("fine", [(6, 8), (7, 5)])
def test_children_equal_to_their_parent_change_nothing_under_refine(rule, fusion, fine):
    a = Attention.random(fine, (3, 4), topk=5, fusion=fusion, selection=rule)
    parents = [(y * 3 // fine[0], x * 4 // fine[1]) for y in range(fine[0]) for x in range(fine[1])]
    rows, columns = (list(axis) for axis in zip(*parents, strict=True))
    a = a.with_(
        fine_key=a.key[:, :, rows, columns].unflatten(2, fine),
        fine_value=a.value[:, :, rows, columns].unflatten(2, fine),
    )
    same = torch.allclose(a(), a(topk=0), rtol=1e-10, atol=1e-12)
    assert same == (fusion == "refine")


@rules
@fusions
def test_each_image_and_head_is_selected_for_on_its_own(rule, fusion):
    a = Attention.random((7, 9), (4, 5), batch=3, heads=1, topk=4, fusion=fusion, selection=rule)
    together = a()
    maps = ("query", "key", "value", "fine_key", "fine_value")
    for b in range(3):
        alone = a.with_(**{name: getattr(a, name)[b : b + 1] for name in maps})
        assert_close(alone(), together[b : b + 1], 1e-11)


@rules
@fusions
def test_gradients_equal_finite_differences(rule, fusion):
    a = Attention.random((5, 4), (2, 2), batch=1, heads=1, width=2).map(lambda t: t.requires_grad_())

    def function(*tensors):
        return Attention(*tensors)(topk=2, fusion=fusion, selection=rule)

    assert torch.autograd.gradcheck(function, a.tensors())


@pytest.mark.parametrize("rule", [rule for rule in RULES_TO_TEST if rule != Query()], ids=repr)
@fusions
@pytest.mark.parametrize(("fine", "coarse"), [((48, 48), (24, 24)), ((47, 49), (24, 23))])
def test_no_rule_but_that_of_each_query_forms_the_logits(rule, fusion, fine, coarse):
    a = Attention.random(fine, coarse, width=8, dtype=torch.float32, topk=8, fusion=fusion, selection=rule)
    a = a.map(lambda t: t.requires_grad_())
    with Watch() as watch:
        out = a()
        out.backward(torch.ones_like(out))
    logits = 2 * 2 * fine[0] * fine[1] * coarse[0] * coarse[1]
    if getattr(rule, "grid", None) is None:
        assert watch.largest <= 2 * a.query.numel()
    assert watch.largest < logits / 10


@sizes
@pytest.mark.parametrize("grid", [1, 2, 3, 9])
def test_joining_undoes_splitting_and_blocks_are_a_partition(fine, coarse, grid):
    del coarse
    tokens = torch.randn(2, 3, fine[0] * fine[1], 4)
    blocks = block_grid(grid, fine)
    assert torch.equal(join_blocks(split_blocks(tokens, fine, blocks), fine, blocks), tokens)
    index, valid = block_index(fine, blocks)
    assert sorted((index if valid is None else index[valid]).flatten().tolist()) == list(range(fine[0] * fine[1]))


# -------------------------------------------------------------------------------------------------- names and errors


def test_names_stand_for_rules_with_their_default_settings():
    assert sorted(RULES) == ["gumbel", "mass", "mean", "nearest", "nucleus", "query", "random", "window"]
    assert [check_selection(name) for name in sorted(RULES)] == [
        Gumbel(), Mass(), Mean(), Nearest(4), Nucleus(0.9), Query(), Random(0), Window(4),
    ]  # fmt: skip
    assert check_selection(rule := EveryOther()) is rule
    assert all(isinstance(check_selection(name), SelectionRule) for name in RULES)


@rules
def test_rules_have_a_plain_form(rule):
    plain = to_plain(rule)
    assert isinstance(plain, tuple)
    assert all(type(v) in (int, float, type(None)) for v in plain[1].values())
    assert from_plain(plain) == rule
    assert to_plain("mass") == from_plain("mass") == "mass"
    assert from_plain(to_plain(own := EveryOther())) is own


BAD = {
    "name": (lambda: check_selection("max"), ValueError, "selection … mean … got 'max'"),
    "class": (
        lambda: check_selection(Window),  # pyright: ignore[reportArgumentType]
        TypeError,
        "class Window … Window()",
    ),
    "number": (
        lambda: check_selection(8),  # pyright: ignore[reportArgumentType]
        TypeError,
        "selection … mean … select … got 8",
    ),
    "no blocks": (lambda: Window(grid=0), ValueError, "grid … got 0"),
    "nearest to no block": (lambda: Nearest(grid=0), ValueError, "grid … got 0"),
    "random for no block": (lambda: Random(grid=0), ValueError, "grid … got 0"),
    "half a block": (lambda: Window(grid=1.5), TypeError, "grid … integer … 1.5"),  # pyright: ignore[reportArgumentType]
    "seed": (lambda: Random(seed="a"), TypeError, "seed … integer … 'a'"),  # pyright: ignore[reportArgumentType]
    "no mass": (lambda: Nucleus(0), ValueError, "p must … above 0 … at most 1 … got 0"),
    "too much mass": (
        lambda: Nucleus(1.1),
        ValueError,
        "p must … above 0 … at most 1 … got 1.1",
    ),
}


@pytest.mark.parametrize(("make", "kind", "text"), BAD.values(), ids=BAD)
def test_bad_rules_are_refused(make, kind, text):
    with pytest.raises(kind, match=says(text)):
        make()


def test_highest_takes_equal_scores_in_index_order():
    assert highest(torch.tensor([1.0, 3.0, 3.0, 1.0, 3.0]), 4).tolist() == [1, 2, 4, 0]


class Best:
    """A rule of the user's: each block of queries takes fewer tokens than it may."""

    def select(self, tokens: Tokens) -> Selected:
        found = Window(grid=2).select(tokens)
        return Selected(found.indices[..., :1], None, found.grid)


@pytest.mark.parametrize("fusion", ["gate", "refine"])
@pytest.mark.parametrize("topk", [3, 12, ALL])
def test_a_rule_that_takes_fewer_tokens_than_all_keeps_its_blocks(topk, fusion):
    a = Attention.random()  # 12 coarse tokens
    found, wanted = (a(topk=topk, fusion=fusion, selection=Best(), impl=impl) for impl in ("fused", "reference"))
    assert_close(found, wanted, 1e-6)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("rule", ["mean", "mass", "nucleus", "random", "window", "query", "nearest"])
def test_vmap_over_models_is_a_loop_over_them(rule):
    two = [(a.query, a.key, a.value, a.fine_key, a.fine_value) for a in (Attention.random(), Attention.random())]
    maps = [torch.stack(pair) for pair in zip(*two, strict=True)]

    def run(query, key, value, fine_key, fine_value):
        return pyramid_sparse_attention(
            query, key, value, (fine_key, fine_value), topk=2, fusion="refine", selection=rule
        )

    with torch.no_grad():
        found = torch.vmap(run)(*maps)
        assert_close(found, torch.stack([run(*(t[i] for t in maps)) for i in range(2)]), 1e-6)


@pytest.mark.parametrize("rule", ["mean", "window"])
@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_the_result_has_the_dtype_of_the_query_under_autocast_too(rule, impl):
    a = Attention.random(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert a(topk=2, fusion="refine", selection=rule, impl=impl).dtype == torch.float32
        assert a(topk=0, impl=impl).dtype == torch.float32


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2.0**-20), (torch.float64, 2.0**-48)])
def test_scores_that_rounding_alone_tells_apart_are_equal_and_others_are_not(dtype, error):
    score = torch.tensor([0.7, 3.1e-4, 1e5], dtype=dtype)
    assert torch.equal(rounded(score), rounded(score * (1 + error)))
    assert (rounded(score * 1.001) > rounded(score)).all()
    torch.testing.assert_close(rounded(score), score, rtol=2.0**-11, atol=0)
