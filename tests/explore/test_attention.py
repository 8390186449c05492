"""The weights of a position are those with which the layer itself attends: they give its result back."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from pst import PST, calibrate, set_options
from pst.explore.attention import attention_of, tokens_of
from pst.explore.passes import record_passes
from pst.functional.grid import parent_index

SIZE, COARSE = (9, 12), (4, 5)


def layer_and_maps(seed: int = 0, **options: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    layer = PST(8, 16, 64, head_dim=16, **options).eval()
    for module in layer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # else keys are nearly equal and attention nearly even
            assert module.running_var is not None
            module.running_var.mul_(0.05)
    return layer, torch.randn(1, 8, *SIZE), torch.randn(1, 16, *COARSE)


def attended(layer, x, upper):
    """Passes, and the (C, H, W) result of the attention itself: what the output projection gets, less the positions."""
    attn = layer.blocks[0].attn
    torch.nn.init.zeros_(attn.pe.bn.weight)
    torch.nn.init.zeros_(attn.pe.bn.bias)
    got = []
    handle = attn.proj.register_forward_pre_hook(lambda module, args: got.append(args[0][0]))
    with torch.no_grad(), record_passes(layer) as passes:
        layer(x, upper)
    handle.remove()
    return passes, got[0]


@pytest.mark.parametrize("max_tokens", [None, 6])
@pytest.mark.parametrize("selection", ["mean", "window", "query", "nucleus"])
def test_refine_gives_the_layers_result_back(selection, max_tokens):
    layer, x, upper = layer_and_maps(topk=3, fusion="refine", selection=selection, max_tokens=max_tokens)
    (p,), out = attended(layer, x, upper)
    assert p.fine is not None
    for head, (row, column) in itertools.product(range(2), [(0, 0), (4, 7), (8, 11)]):
        weights, share = attention_of(p, head, (row, column))
        assert share is None
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
        exact = result(p, head, (row, column))
        torch.testing.assert_close(exact, out.unflatten(0, (2, -1))[head, :, row, column], rtol=1e-4, atol=1e-5)


def values(maps, head):
    return maps.unflatten(0, (2, -1))[head].chunk(2)[1]


def over_children(coarse, head):
    """Values of the coarse tokens at the positions of their children."""
    return values(coarse, head).flatten(1)[:, parent_index(SIZE, COARSE)].unflatten(1, SIZE)


def result(p, head, position):
    """Σ weight · value: the fine value where the token was selected, else that of the coarse token."""
    weights = attention_of(p, head, position).weights
    chosen = torch.isin(parent_index(SIZE, COARSE), torch.tensor(tokens_of(p, head, position))).unflatten(0, SIZE)
    return (torch.where(chosen, values(p.fine, head), over_children(p.coarse, head)) * weights).sum((1, 2))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_coarse_attention_gives_the_layers_result_back(similarity):
    layer, x, upper = layer_and_maps(similarity=similarity)
    (p,), out = attended(layer, x, upper)
    assert p.fine is None
    assert p.selection is None
    weights, share = attention_of(p, 1, (3, 5))
    assert share is None
    got = (over_children(p.coarse, 1) * weights).sum((1, 2))
    torch.testing.assert_close(got, out.unflatten(0, (2, -1))[1, :, 3, 5], rtol=1e-4, atol=1e-5)


def test_a_gate_shares_the_weight_between_coarse_and_fine():
    """With the same gate in every channel, the weights give the layer's result back as well."""
    layer, x, upper = layer_and_maps(topk=2)
    gate = layer.blocks[0].attn.gate
    torch.nn.init.zeros_(gate.weight)
    torch.nn.init.constant_(gate.bias, 1.0)
    (p,), out = attended(layer, x, upper)
    weights, share = attention_of(p, 0, (2, 2))
    assert share is not None
    assert share == pytest.approx(torch.tensor(1.0).sigmoid().item(), rel=1e-5)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    set_options(layer, topk=0)
    coarse = attended(layer, x, upper)[0][0]
    even = attention_of(coarse, 0, (2, 2)).weights
    fine = weights - (1 - share) * even
    assert float(fine.sum()) == pytest.approx(share, rel=1e-4)
    assert float(fine.min()) > -1e-7
    both = (values(p.fine, 0) * fine + (1 - share) * over_children(p.coarse, 0) * even).sum((1, 2))
    torch.testing.assert_close(both, out.unflatten(0, (2, -1))[0, :, 2, 2], rtol=1e-4, atol=1e-5)


def test_each_block_of_queries_has_tokens_of_its_own():
    layer, x, upper = layer_and_maps(topk=2, selection="query", fusion="refine")
    (p,), _ = attended(layer, x, upper)
    assert p.selection is not None
    for row, column in [(0, 0), (8, 11), (5, 3)]:
        assert tokens_of(p, 0, (row, column)) == p.selection.index[0, 0, row * SIZE[1] + column].tolist()
    assert set(tokens_of(p, 0, None)) == set(p.selection.index[0, 0].flatten().tolist())


def test_a_shared_layer_is_recorded_once_for_each_run():
    layer, x, upper = layer_and_maps(topk=2)
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in layer.modules()]
    with torch.no_grad(), record_passes(layer) as passes:
        layer(x, upper)
        layer(upper_sized(x), upper)
    assert [p.name for p in passes] == ["blocks.0.attn", "blocks.0.attn (2)"]
    assert [p.size for p in passes] == [SIZE, (18, 24)]
    assert all(p.selection is not None for p in passes)
    assert before == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in layer.modules()]


def upper_sized(x):
    return torch.nn.functional.interpolate(x, scale_factor=2)


def test_fine_statistics_are_in_what_is_recorded_whether_folded_or_not():
    layer, x, upper = layer_and_maps(topk=3, fusion="refine")
    calibrate(layer, [(x * 3, upper)])
    (p,), out = attended(layer, x, upper)
    torch.testing.assert_close(result(p, 0, (1, 2)), out.unflatten(0, (2, -1))[0, :, 1, 2], rtol=1e-4, atol=1e-5)
    attn = layer.blocks[0].attn
    attn.kv = torch.nn.utils.fuse_conv_bn_eval(attn.kv.conv, attn.kv.bn)
    (folded,), _ = attended(layer, x, upper)
    torch.testing.assert_close(folded.fine, p.fine, rtol=1e-3, atol=1e-4)


def test_a_position_that_is_not_there_is_refused():
    layer, x, upper = layer_and_maps()
    (p,), _ = attended(layer, x, upper)
    for head, position in [(2, (0, 0)), (0, (9, 0)), (0, (0, -1))]:
        with pytest.raises(IndexError):
            attention_of(p, head, position)
