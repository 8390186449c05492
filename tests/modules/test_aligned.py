"""Aligned levels: coarse tokens are the means of their children."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pst
from battery import filled
from messages import says
from pst.functional.grid import child_means
from tensors import assert_close

SIZES = [((8, 12), (4, 4)), ((13, 9), (4, 4)), ((7, 5), (3, 5)), ((5, 7), (5, 7)), ((9, 4), (1, 1))]
sizes = pytest.mark.parametrize(("fine", "coarse"), SIZES, ids=str)


def means(t: Tensor, coarse: tuple[int, int]) -> Tensor:
    """By the definition of a child, one position after the other."""
    height, width = t.shape[2:]
    total = torch.zeros(*t.shape[:2], *coarse, dtype=t.dtype)
    count = torch.zeros(coarse, dtype=t.dtype)
    for y in range(height):
        for x in range(width):
            at = y * coarse[0] // height, x * coarse[1] // width
            total[..., at[0], at[1]] += t[..., y, x]
            count[at] += 1
    return total / count


def maps(fine: tuple[int, int], coarse: tuple[int, int], channels: tuple[int, int] = (16, 16)) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, c, *s, dtype=torch.float64) for c, s in zip(channels, (fine, coarse), strict=True)]


def attention(**options: Any) -> Any:
    return filled(pst.PyramidSparseAttention(16, 2, aligned=True, **options)).double().eval()


@sizes
def test_child_means_are_those_of_the_definition(fine, coarse):
    x, _ = maps(fine, coarse)
    assert_close(child_means(x, coarse), means(x, coarse), 1e-14)
    assert child_means(x.half(), coarse).dtype == torch.float16
    assert torch.autograd.gradcheck(lambda t: child_means(t, coarse), x[:1, :2].clone().requires_grad_())


def test_a_nan_reaches_its_own_parent_alone():
    for fine in ((8, 8), (7, 9)):
        x = torch.ones(1, 1, *fine)
        x[..., 0, 0] = torch.nan
        assert child_means(x, (3, 4) if fine == (7, 9) else (4, 4)).isnan().sum() == 1


@sizes
def test_coarse_keys_and_values_are_the_means_of_their_children_s(fine, coarse):
    attn, (x, upper) = attention(), maps(fine, coarse)
    seen: list[Tensor] = []
    attn.kv.register_forward_hook(lambda _, args, out: seen.append(out))
    attn(x, upper)
    assert_close(seen[0], means(attn.kv(x), coarse), 1e-13)


@sizes
@pytest.mark.parametrize("options", [{"topk": 0}, {"topk": 2}, {"topk": 2, "fusion": "refine", "selection": "window"}])
def test_it_is_attention_to_the_means(fine, coarse, options):
    """Of x, or of a third map; the coarser map's numbers play no part."""
    attn, (x, upper) = attention(**options), maps(fine, coarse)
    plain = filled(pst.PyramidSparseAttention(16, 2, **options)).double().eval()
    assert_close(attn(x, upper), plain(x, means(x, coarse)), 1e-12)
    other = torch.randn(2, 16, 6, 3, dtype=torch.float64)
    assert_close(attn(other, upper, x), plain(other, means(x, coarse), x), 1e-12)


@sizes
def test_all_tokens_refined_are_full_attention_to_the_fine_map(fine, coarse):
    attn, (x, upper) = attention(topk=1000, fusion="refine"), maps(fine, coarse)
    query, (key, value) = attn.q(x), attn.kv(x).unflatten(1, (2, 2, 8)).unbind(2)

    def tokens(t: Tensor) -> Tensor:
        return t.reshape(2, 2, 8, -1).mT

    # one softmax in which the children of one parent share its weight
    y, column = (torch.arange(n) * m // n for n, m in zip(fine, coarse, strict=True))
    owner = (y[:, None] * coarse[1] + column).flatten()
    bias = -torch.bincount(owner)[owner].double().log()
    full = F.scaled_dot_product_attention(
        tokens(query), tokens(key), tokens(value), attn_mask=bias.expand(len(owner), -1)
    )
    position = F.interpolate(attn.pe(means(value.flatten(1, 2), coarse)), fine, mode="bilinear", align_corners=False)
    assert_close(attn(x, upper), attn.proj(full.mT.reshape(2, 16, *fine) + position), 1e-12)


@sizes
@pytest.mark.parametrize("depth", [1, 2])
def test_a_layer_adds_the_coarser_map_and_its_blocks_attend_to_the_means_of_their_own_input(fine, coarse, depth):
    options: dict[str, Any] = {"head_dim": 8, "depth": depth, "topk": 2}
    layer = filled(pst.PST(8, 12, 32, aligned=True, **options)).double().eval()
    x, upper = maps(fine, coarse, (8, 12))
    added = F.interpolate(layer.reduce_upper(upper), fine, mode="bilinear", align_corners=False)
    outputs = [layer.reduce(x) + added]
    plain = filled(pst.PST(8, 12, 32, **options)).double().eval()
    for block in plain.blocks:
        outputs.append(block(outputs[-1], means(outputs[-1], coarse)))
    assert_close(layer(x, upper), layer.project(torch.cat(outputs, 1)), 1e-11)


def test_with_a_third_map_the_coarser_one_is_added_to_it():
    layer = filled(pst.PST(8, 12, 32, head_dim=8, aligned=True, topk=2)).double().eval()
    fine, upper = maps((9, 7), (4, 3), (8, 12))
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    third = layer.reduce(fine) + F.interpolate(layer.reduce_upper(upper), (9, 7), mode="bilinear", align_corners=False)
    y = layer.reduce(x)
    out = layer.project(torch.cat([y, layer.blocks[0](y, upper=torch.zeros(2, 16, 4, 3).double(), fine=third)], 1))
    assert_close(layer(x, upper, fine), out, 1e-11)


def test_a_pyramid_takes_the_option_and_trains_every_parameter():
    pyramid = pst.PSTPyramid([8, 8, 8], 16, head_dim=8, aligned=True).train()
    out = pyramid([torch.randn(2, 8, n, n) for n in (17, 9, 5)])
    assert [tuple(t.shape[2:]) for t in out] == [(17, 17), (9, 9), (5, 5)]
    torch.stack([t.square().sum() for t in out]).sum().backward()
    assert all(p.grad is not None for p in pyramid.parameters())
    assert sum(p.numel() for p in pyramid.parameters()) == sum(
        p.numel() for p in pst.PSTPyramid([8, 8, 8], 16, head_dim=8).parameters()
    )


def test_a_finished_layer_stays_what_it_was_built_as():
    layer = pst.PST(8, 8, 32, head_dim=8)
    with pytest.raises(ValueError, match=says("built with aligned=False … stays so")):
        pst.set_options(layer, aligned=True)
    again = pickle.loads(pickle.dumps(pst.PST(8, 8, 32, head_dim=8, aligned=True)))
    assert again.wiring == "add"
    assert again.blocks[0].attn.settings.aligned
    with pytest.raises(TypeError, match=says("aligned must be True or False … 'yes'")):
        pst.PST(8, 8, 32, head_dim=8, aligned="yes")  # pyright: ignore[reportArgumentType]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_exported_program_runs_at_other_sizes(tmp_path: Path):
    layer = filled(pst.PST(8, 8, 32, head_dim=8, aligned=True, topk=2, fusion="refine")).eval()
    auto = torch.export.Dim.DYNAMIC
    traced = torch.randn(2, 8, 13, 9), torch.randn(2, 8, 4, 3)
    program = torch.export.export(layer, traced, dynamic_shapes=({2: auto, 3: auto}, {2: auto, 3: auto}))
    for fine, coarse in (((12, 8), (4, 4)), ((11, 10), (3, 4))):
        inputs = torch.randn(2, 8, *fine), torch.randn(2, 8, *coarse)
        assert_close(program.module()(*inputs), layer(*inputs), 1e-5)
