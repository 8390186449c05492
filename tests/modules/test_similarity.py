"""Attention between queries and keys of unit length: the formula, what it does not depend on, what it learns."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import pst
from battery import filled
from pst.functional import pyramid_sparse_attention
from tensors import assert_close

KINDS = [{"topk": 0}, {"topk": 3}, {"topk": 3, "fusion": "refine"}, {"topk": 3, "selection": "window"}]
kinds = pytest.mark.parametrize("options", KINDS, ids=str)


def layer(**options: Any) -> Any:
    module = filled(pst.PyramidSparseAttention(16, 2, similarity="cosine", **options)).eval().double()
    with torch.no_grad():
        module.log_scale.copy_(torch.tensor([5.0, 20.0]).double().log().view(2, 1, 1))
    return module


def maps(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(  # type: ignore[return-value]
        torch.randn(2, 16, *size, generator=generator, dtype=torch.float64).to(dtype) for size in ((9, 8), (4, 4))
    )


@kinds
def test_it_is_the_formula(options):
    attn, (x, upper) = layer(**options), maps()

    def heads(t: torch.Tensor) -> torch.Tensor:
        """(B, h·c, H, W) -> (B, h, H, W, c)."""
        return t.unflatten(1, (2, -1)).permute(0, 1, 3, 4, 2)

    query = F.normalize(heads(attn.q(x)), dim=-1) * torch.tensor([5.0, 20.0]).double().view(2, 1, 1, 1)
    (key, value), (fine_key, fine_value) = (heads(attn.kv(m)).chunk(2, -1) for m in (upper, x))
    unit = F.normalize(key, dim=-1), value, (F.normalize(fine_key, dim=-1), fine_value)
    gate = (attn.gate.weight, attn.gate.bias) if attn.gate is not None else None
    out = pyramid_sparse_attention(query, *unit, gate=gate, scale=1.0, impl="reference", **options)
    out = out.permute(0, 1, 4, 2, 3).flatten(1, 2)
    position = attn.pe(value.permute(0, 1, 4, 2, 3).flatten(1, 2))
    position = F.interpolate(position, x.shape[2:], mode="bilinear", align_corners=False)
    assert_close(attn(x, upper), attn.proj(out + position))


@kinds
def test_the_length_of_queries_and_keys_does_not_matter(options):
    attn, inputs = layer(**options), maps()
    expected = attn(*inputs)
    attn.q.register_forward_hook(lambda _, args, out: 7 * out)
    longer = torch.tensor([3.0] * 8 + [1.0] * 8).repeat(2).view(1, 32, 1, 1)  # keys, then values, of each head
    attn.kv.register_forward_hook(lambda _, args, out: out * longer)
    assert_close(attn(*inputs), expected)


def test_each_head_learns_its_scale_up_to_100():
    attn = layer(topk=3).train()
    attn(*maps()).square().sum().backward()
    assert attn.log_scale.grad.abs().min() > 0
    with torch.no_grad():
        attn.log_scale.fill_(math.log(100))
        at_most = attn.eval()(*maps())
        attn.log_scale.fill_(10)
    assert_close(attn(*maps()), at_most)


def test_float16_of_any_length_is_finite():
    attn = layer(topk=3).half()
    attn.q.register_forward_hook(lambda _, args, out: out * 3000)
    assert attn(*maps(torch.float16)).isfinite().all()


def test_a_copy_from_a_pickle_or_a_state_dict_is_the_same():
    attn, inputs = layer(topk=3), maps()
    other = pst.PyramidSparseAttention(16, 2, topk=3, similarity="cosine").eval().double()
    other.load_state_dict(attn.state_dict())
    for copy in (pickle.loads(pickle.dumps(attn)), other):
        assert torch.equal(copy(*inputs), attn(*inputs))


def test_it_is_exported_for_any_size():
    attn = layer(topk=3, fusion="refine")
    traced = torch.randn(3, 16, 13, 9).double(), torch.randn(3, 16, 5, 4).double()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(attn, traced, dynamic_shapes=(free, free)).module()
    assert_close(program(*maps()), attn(*maps()), 1e-10)


def test_any_layer_takes_the_option_and_a_plain_one_refuses_it_later():
    model = pst.PSTPyramid([8, 16], 32, head_dim=8, similarity="cosine")
    assert [a.settings.similarity for a in pst.control.attention_layers(model).values()] == ["cosine"]
    plain = pst.PyramidSparseAttention(16, 2)
    assert "log_scale" not in plain.state_dict()
    with pytest.raises(ValueError, match='build it with similarity="cosine"'):
        plain.settings = pst.modules.Settings(similarity="cosine")
    with pytest.raises(ValueError, match="similarity must be one of"):
        pst.PyramidSparseAttention(16, 2, similarity="euclid")  # type: ignore[arg-type]
