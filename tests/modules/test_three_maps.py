"""Queries of one map, keys of another frame: coarse and fine map have a size of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pst
from battery import filled
from pst.functional import pyramid_sparse_attention
from pst.functional.attention import gather_tokens
from pst.functional.selection import Window
from tensors import assert_close

SIZES = [((6, 8), (9, 12), (3, 4)), ((5, 7), (13, 9), (4, 3)), ((3, 2), (8, 8), (4, 4)), ((12, 12), (6, 5), (3, 2))]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
OPTIONS: list[dict[str, Any]] = [
    {"topk": 0},
    {"topk": 2},
    {"topk": 2, "fusion": "refine"},
    {"topk": 2, "fusion": "refine", "selection": Window(grid=3)},
    {"topk": 3, "selection": "nucleus"},
    {"topk": 1000, "fusion": "refine"},
]
options = pytest.mark.parametrize("option", OPTIONS, ids=str)


def maps(size: Any, dtype: torch.dtype = torch.float64, channels: tuple[int, int, int] = (16, 16, 16)) -> list[Tensor]:
    """Query, coarse and fine map."""
    generator = torch.Generator().manual_seed(0)
    query, fine, coarse = size
    c, cu, cf = channels
    return [
        torch.randn(2, n, *s, generator=generator, dtype=torch.float64).to(dtype)
        for n, s in ((c, query), (cu, coarse), (cf, fine))
    ]


def heads(t: Tensor) -> Tensor:
    return t.unflatten(1, (2, -1)).permute(0, 1, 3, 4, 2)


@sizes
@options
def test_the_operator_agrees_with_its_definition(size, option):
    query, coarse, fine = (heads(t).requires_grad_() for t in maps(size))
    value, fine_value = (heads(t).flip(-1).requires_grad_() for t in maps(size)[1:])
    d = query.shape[-1]
    gate = torch.randn(d, 2 * d, dtype=torch.float64), torch.randn(d, dtype=torch.float64)
    seen: list[Tensor] = []

    def run(impl: Any) -> Tensor:
        pair = (fine, fine_value)
        return pyramid_sparse_attention(
            query, coarse, value, pair, gate=gate, impl=impl, observer=seen.append, **option
        )

    fused, exact = run("fused"), run("reference")
    assert fused.shape == query.shape
    assert_close(fused, exact)
    upstream = torch.randn_like(fused)
    leaves = [query, coarse, value, *((fine, fine_value) if option["topk"] else ())]
    got = torch.autograd.grad(fused, leaves, upstream, allow_unused=True)
    wanted = torch.autograd.grad(exact, leaves, upstream, allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_close(a, b, 1e-10)
    assert all(torch.equal(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True))


@pytest.mark.parametrize("width", [1, 3, 12])
@options
def test_values_may_have_a_width_of_their_own(width, option):
    """Narrower than the keys or wider, with gradients and without, where blocks are taken a few at a time."""
    query, coarse, fine = (heads(t).requires_grad_() for t in maps(SIZES[1]))
    torch.manual_seed(0)
    value, fine_value = (
        torch.randn(*t.shape[:4], width, dtype=torch.float64, requires_grad=True) for t in (coarse, fine)
    )
    gate = torch.randn(width, 2 * width, dtype=torch.float64), torch.randn(width, dtype=torch.float64)

    def run(impl: Any, fine: Any = (fine, fine_value)) -> Tensor:
        return pyramid_sparse_attention(
            query, coarse, value, fine, gate=gate, impl=impl, fine_size=SIZES[1][1], **option
        )

    fused, exact = run("fused"), run("reference")
    assert fused.shape == (*query.shape[:4], width)
    assert_close(fused, exact)
    leaves = [query, coarse, value, *((fine, fine_value) if option["topk"] else ())]
    upstream = torch.randn_like(fused)
    for a, b in zip(*(torch.autograd.grad(t, leaves, upstream) for t in (fused, exact)), strict=True):
        assert_close(a, b, 1e-10)
    with torch.no_grad():
        assert_close(run("auto"), exact)
        read = gather_tokens(fine.flatten(2, 3), fine_value.flatten(2, 3))
        assert_close(run("auto", read), exact)


def test_values_of_another_width_are_refused_where_they_do_not_fit():
    query, coarse, fine = (heads(t) for t in maps(SIZES[1]))
    value = coarse[..., :3]
    option: dict[str, Any] = {"topk": 2, "fusion": "refine"}
    wrongs: list[tuple[Any, str]] = [
        ((fine, fine), r"fine value must be \(2, 2, height, width, 3\) as the value"),
        (lambda index: (fine.flatten(2, 3)[:, :, : index.shape[2]],) * 2, r"values of shape \(2, 2, \d+, 3\)"),
    ]
    for wrong, said in wrongs:
        with pytest.raises(ValueError, match=said):
            pyramid_sparse_attention(query, coarse, value, wrong, fine_size=SIZES[1][1], **option)
    with pytest.raises(ValueError, match="one shape but for the last axis"):
        pyramid_sparse_attention(query, coarse, value[:, :, :1])
    gate = torch.zeros(8, 16).double(), torch.zeros(8).double()
    with pytest.raises(ValueError, match="gate must be weight \\(3, 6\\)"):
        pyramid_sparse_attention(query, coarse, value, (fine, fine[..., :3]), topk=2, gate=gate)


@pytest.mark.parametrize("fusion", ["gate", "refine"])
def test_blocks_take_infinities_and_autocast_as_the_definition_does(fusion):
    """Without gradients, where a few blocks are taken at a time."""
    query, coarse, fine = (heads(t).float() for t in maps(SIZES[0]))
    coarse, fine = coarse.abs(), fine.abs()
    gate = torch.randn(8, 16), torch.randn(8)
    option: dict[str, Any] = {"topk": 2, "fusion": fusion, "gate": gate, "selection": Window(grid=2)}

    def both() -> list[Tensor]:
        return [
            pyramid_sparse_attention(query, coarse, coarse, (fine, fine), impl=impl, **option)
            for impl in ("fused", "reference")
        ]

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=fusion == "refine"):  # a gate is autocast
        torch.testing.assert_close(*both(), rtol=1e-4, atol=1e-5)
    query[0, 0, 0, 0] = -torch.inf  # every logit is −∞: no weight, 0
    query[1, 1, 1, 1] = torch.nan
    torch.testing.assert_close(*both(), rtol=1e-4, atol=1e-5, equal_nan=True)


@sizes
def test_every_token_refined_is_attention_to_the_whole_fine_map(size):
    query, coarse, fine = (heads(t) for t in maps(size))
    out = pyramid_sparse_attention(query, coarse, coarse, (fine, fine), topk=10**6, fusion="refine")
    (h, w), (hu, wu) = size[1], size[2]
    owner = (torch.arange(h) * hu // h)[:, None] * wu + torch.arange(w) * wu // w
    siblings = torch.bincount(owner.flatten(), minlength=hu * wu)[owner.flatten()]
    logits = query.flatten(2, 3) @ fine.flatten(2, 3).mT * query.shape[-1] ** -0.5 - siblings.double().log()
    expected = logits.softmax(-1) @ fine.flatten(2, 3)
    assert_close(out.flatten(2, 3), expected)


@sizes
def test_a_function_reads_a_map_of_any_size(size):
    query, coarse, fine = (heads(t) for t in maps(size))
    tokens = fine.flatten(2, 3)

    def read(index: Tensor) -> tuple[Tensor, Tensor]:
        index = index[..., None].expand(-1, -1, -1, tokens.shape[-1])
        return tokens.gather(2, index), tokens.gather(2, index)

    settings: dict[str, Any] = {"topk": 2, "fusion": "refine"}
    expected = pyramid_sparse_attention(query, coarse, coarse, (fine, fine), **settings)
    assert torch.equal(pyramid_sparse_attention(query, coarse, coarse, read, fine_size=size[1], **settings), expected)


@sizes
@options
def test_a_layer_is_the_formula(size, option):
    attn = filled(pst.PyramidSparseAttention(16, 2, **option)).eval().double()
    x, upper, fine = maps(size)
    (key, value), (fine_key, fine_value) = (heads(attn.kv(t)).chunk(2, -1) for t in (upper, fine))
    gate = None if attn.gate is None else (attn.gate.weight, attn.gate.bias)
    out = pyramid_sparse_attention(
        heads(attn.q(x)), key, value, (fine_key, fine_value), gate=gate, impl="reference", **option
    )
    position = attn.pe(value.permute(0, 1, 4, 2, 3).flatten(1, 2))
    position = F.interpolate(position, x.shape[2:], mode="bilinear", align_corners=False)
    expected = attn.proj(out.permute(0, 1, 4, 2, 3).flatten(1, 2) + position)
    assert_close(attn(x, upper, fine), expected, 1e-11)


@options
def test_without_another_frame_it_is_what_it_was(option):
    attn = filled(pst.PyramidSparseAttention(16, 2, **option)).eval().double()
    x, upper, _ = maps(((9, 8), (9, 8), (4, 4)))
    assert torch.equal(attn(x, upper, x), attn(x, upper))


def test_the_plug_in_layer_takes_it_too():
    layer = filled(pst.PST(8, 12, 32, head_dim=8, topk=2, depth=2)).eval().double()
    x, upper, fine = maps(SIZES[1], channels=(8, 12, 8))
    block = layer.blocks[0]
    reduced = layer.reduce(x), layer.reduce_upper(upper), layer.reduce(fine)
    first = block(*reduced)
    outputs = [reduced[0], first, layer.blocks[1](first, *reduced[1:])]
    assert_close(layer(x, upper, fine), layer.project(torch.cat(outputs, 1)))
    with pst.record_selection(layer) as selected, torch.no_grad():
        layer(x, upper, fine)
    assert {record.fine_size for records in selected.values() for record in records} == {SIZES[1][1]}


def test_fine_statistics_are_of_the_fine_map():
    layer = filled(pst.PST(8, 12, 32, head_dim=8)).eval()
    x, upper, fine = maps(SIZES[0], torch.float32, (8, 12, 8))
    pst.calibrate(layer, [(x, upper, fine)])
    (attn,) = pst.control.attention_layers(layer).values()
    kv: Any = attn.kv
    expected = kv.conv(layer.reduce(fine))
    assert attn.fine_statistics is not None
    torch.testing.assert_close(attn.fine_statistics.mean, expected.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", [OPTIONS[3]], ids=str)
def test_it_is_exported_with_all_sizes_free(option):
    attn = filled(pst.PyramidSparseAttention(16, 2, **option)).eval().double()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    traced = tuple(t[:1].expand(3, -1, -1, -1).contiguous() for t in maps(((7, 10), (13, 9), (5, 4))))
    program = torch.export.export(attn, traced, dynamic_shapes=(free, free, free)).module()
    for size in (((6, 8), (12, 12), (4, 4)), ((14, 9), (11, 17), (5, 6))):
        inputs = maps(size)
        assert_close(program(*inputs), attn(*inputs), 1e-10)


def test_it_compiles_to_one_graph():
    attn = filled(pst.PyramidSparseAttention(16, 2, topk=2)).eval().double()
    inputs = maps(SIZES[0])
    compiled = torch.compile(attn, backend="aot_eager", fullgraph=True)
    assert_close(compiled(*inputs), attn(*inputs))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, u, f: (x, f, u), "at least as large as the coarse one"),
        (lambda x, u, f: (x, u, f[:1]), "batch size differs"),
        (lambda x, u, f: (x[:1], u, f), "batch size differs: x has 1, fine 2"),
        (lambda x, u, f: (x, u, f[:, :8]), r"fine must be \(batch, 16, height, width\)"),
        (lambda x, u, f: (x[:, :8], u, f), r"x must be \(batch, 16, height, width\)"),
        (lambda x, u, f: (x[:, :, :0], u, f), "must not be empty"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    attn = pst.PyramidSparseAttention(16, 2, topk=2)
    with pytest.raises(ValueError, match=said):
        attn(*change(*maps(SIZES[0], torch.float32)))


def test_dtypes_that_differ_are_named():
    x, upper, fine = maps(SIZES[0], torch.float32)
    with pytest.raises(TypeError, match=r"x is torch\.float64 but fine torch\.float32"):
        pst.PyramidSparseAttention(16, 2)(x.double(), upper, fine)


@pytest.mark.parametrize(
    ("size", "kind", "said"),
    [((9,), TypeError, "two integers"), ((0, 3), ValueError, "≥ 1"), ((2, 2), ValueError, "at least as large")],
)
def test_the_size_that_a_function_reads_is_checked(size, kind, said):
    query, coarse, _ = (heads(t) for t in maps(SIZES[0]))
    with pytest.raises(kind, match=said):
        pyramid_sparse_attention(
            query, coarse, coarse, lambda index: (index, index), fine_size=size, topk=2, fusion="refine"
        )
