"""One call of carrying, against a softmax that is written out in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from messages import says
from pst.functional.selection import Window
from pst.propagate import carry, with_place

SCALE = 20.0


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explicit(query: Tensor, key: Tensor, value: Tensor, weight: Tensor | None = None) -> Tensor:
    """Every position of every remembered picture, by the cosine of its features and a weight (Hf, Wf)."""
    q, k = F.normalize(query, dim=0).flatten(1), F.normalize(key, dim=1).transpose(0, 1).flatten(1)
    weight = torch.ones(key.shape[2:], dtype=key.dtype) if weight is None else weight
    share = (SCALE * (q.T @ k) + weight.log().flatten().repeat(len(key))).softmax(1)
    return (share @ value.transpose(0, 1).flatten(1).T).T.view(-1, *query.shape[1:])


def cells(size: int, ratio: int) -> list[range]:
    """Fine positions of each coarse one along an axis, as the project's grid has them."""
    count = -(-size // ratio)
    edges = [-(-i * size // count) for i in range(count + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


SIZES = [  # new picture, remembered ones, ratio
    ((8, 12), (8, 12), 4),
    ((5, 7), (9, 11), 4),
    ((6, 3), (7, 5), 2),
    ((4, 4), (13, 6), 3),
    ((3, 5), (6, 6), 1),
    ((1, 1), (2, 2), 8),
]


@pytest.mark.parametrize("memories", [1, 2, 3])
@pytest.mark.parametrize(("new", "old", "ratio"), SIZES)
def test_all_positions_is_a_plain_softmax(new, old, ratio, memories):
    """In which the children of a cell count as much together as those of another, however many they are."""
    query, key, value = maps(0, 6, *new), maps(1, memories, 6, *old), maps(2, memories, 3, *old)
    found = carry(query, key, value, topk=10**6, ratio=ratio, scale=SCALE, selection=Window(2))
    assert found.shape == (3, *new)
    weight = torch.ones(old, dtype=torch.float64)
    for rows, columns in itertools.product(cells(old[0], ratio), cells(old[1], ratio)):
        weight[rows.start : rows.stop, columns.start : columns.stop] /= len(rows) * len(columns)
    assert torch.allclose(found, explicit(query, key, value, weight), rtol=1e-9, atol=1e-9)
    if old[0] % ratio == old[1] % ratio == 0:
        assert torch.allclose(found, explicit(query, key, value), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("memories", [1, 2])
@pytest.mark.parametrize(("new", "old", "ratio"), [((8, 12), (8, 12), 4), ((6, 4), (6, 6), 2)])
def test_no_position_in_detail_is_the_mean_of_each_cell(new, old, ratio, memories):
    query, key, value = maps(0, 6, *new), maps(1, memories, 6, *old), maps(2, memories, 3, *old)
    pooled = F.avg_pool2d(F.normalize(key, dim=1), ratio), F.avg_pool2d(value, ratio)
    found = carry(query, key, value, topk=0, ratio=ratio, scale=SCALE)
    assert torch.allclose(found, explicit(query, *pooled), rtol=1e-9, atol=1e-9)


def test_at_an_uneven_end_a_cell_is_the_mean_of_what_it_has():
    key, value = maps(1, 1, 6, 9, 5), maps(2, 1, 3, 9, 5)
    pooled = [
        torch.stack([m[:, :, r][..., c].mean((2, 3)) for r in cells(9, 4) for c in cells(5, 4)], -1).unflatten(
            2, (3, 2)
        )
        for m in (F.normalize(key, dim=1), value)
    ]
    query = maps(0, 6, 4, 4)
    found = carry(query, key, value, topk=0, ratio=4, scale=SCALE)
    assert torch.allclose(found, explicit(query, *pooled), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("topk", [0, 1, 3, 1000])
def test_what_is_the_same_everywhere_stays_so(topk):
    value = torch.full((2, 1, 8, 8), 7.0, dtype=torch.float64)
    found = carry(maps(0, 6, 6, 5), maps(1, 2, 6, 8, 8), value, topk=topk, ratio=3)
    assert torch.allclose(found, torch.full_like(found, 7))


def test_more_channels_than_the_features_have():
    query, key, value = maps(0, 4, 6, 6), maps(1, 1, 4, 6, 6), maps(2, 1, 50, 6, 6)
    found = carry(query, key, value, topk=2, ratio=2, scale=SCALE)
    one_by_one = [carry(query, key, part, topk=2, ratio=2, scale=SCALE) for part in value.split(1, 1)]
    assert torch.allclose(found, torch.cat(one_by_one))


def test_the_order_of_memories_does_not_matter():
    query, key, value = maps(0, 6, 6, 6), maps(1, 3, 6, 6, 6), maps(2, 3, 2, 6, 6)
    found = [carry(query, key[order], value[order], topk=4, ratio=2) for order in ([0, 1, 2], [2, 0, 1])]
    assert torch.allclose(found[0], found[1])


def test_the_observer_sees_the_scores():
    seen = []
    carry(maps(0, 6, 6, 6), maps(1, 2, 6, 6, 6), maps(2, 2, 2, 6, 6), topk=4, ratio=2, observer=seen.append)
    assert seen


@pytest.mark.parametrize(
    ("shapes", "parts"),
    [
        (((6, 4, 4), (6, 4, 4), (1, 2, 4, 4)), "(C, H, W) … (6, 4, 4)"),
        (((5, 4, 4), (1, 6, 4, 4), (1, 2, 4, 4)), "(5, 4, 4)"),
        (((6, 4, 4), (1, 6, 4, 4), (2, 2, 4, 4)), "(2, 2, 4, 4)"),
        (((6, 4, 4), (1, 6, 4, 4), (1, 2, 4, 5)), "(1, 2, 4, 5)"),
    ],
)
def test_sizes_that_do_not_fit(shapes, parts):
    with pytest.raises(ValueError, match=says(parts)):
        carry(*(maps(i, *shape) for i, shape in enumerate(shapes)))


def test_a_place_makes_near_positions_alike():
    features = torch.ones(2, 3, 6, 9, dtype=torch.float64)
    placed = with_place(features, 0.5)
    assert placed.shape == (2, 11, 6, 9)
    assert torch.equal(placed[:, :3], features)
    assert torch.allclose(placed[:, 3:].norm(dim=1), torch.tensor(0.5, dtype=torch.float64))
    likeness = torch.einsum("c,cx->x", placed[0, :, 3, 0], placed[0, :, 3])
    assert likeness[0] > likeness[1] > likeness[2]  # along a row, of what is near
    assert with_place(features, 0) is features


def test_the_length_of_features_does_not_matter():
    torch.manual_seed(0)
    query, key, value = torch.randn(6, 9, 8).double(), torch.randn(2, 6, 8, 8).double(), torch.rand(2, 3, 8, 8).double()
    expected = carry(query, key, value, topk=2, selection=Window(3))
    longer = carry(query * 3, key * (0.5 + torch.rand(2, 1, 8, 8).double()), value, topk=2, selection=Window(3))
    torch.testing.assert_close(longer, expected)
